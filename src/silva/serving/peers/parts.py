"""The tokens of a pass and the blocks they belong to, as peers that share it tell each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from silva.serving.engine.attend import PagedStep
from silva.serving.engine.passes import Pass
from silva.serving.wire.messages import Part


def parts_of(tokens: Tensor, attend: PagedStep) -> tuple[Part, ...]:
    """The sequences of a pass over `tokens` [tokens], in order."""
    size, found = attend.memory.shape.block_tokens, []
    for n, context in enumerate(attend.contexts.tolist()):
        rows = slice(int(attend.starts[n]), int(attend.starts[n + 1]))
        mine = tuple(tokens[rows].tolist())
        blocks = attend.table[n, : -(-context // size)].tolist()
        found.append(Part(context - len(mine), mine, tuple(blocks)))
    return tuple(found)


def pass_of_parts(parts: Sequence[Part]) -> tuple[Pass, NDArray[np.int32]]:
    """The same pass, and the table [sequences, width] of its blocks."""
    table = np.zeros((len(parts), max(len(part.blocks) for part in parts)), np.int32)
    for n, part in enumerate(parts):
        table[n, : len(part.blocks)] = part.blocks
    counts = np.array([len(part.tokens) for part in parts], np.int32)
    spans = [np.arange(part.first, part.first + len(part.tokens)) for part in parts]
    step = Pass(
        slots=np.arange(len(parts)),
        counts=counts,
        tokens=np.concatenate([np.array(part.tokens, np.int64) for part in parts]),
        positions=np.concatenate(spans),
        samples=np.zeros(len(parts), np.bool_),
        drafted=np.zeros(0, np.int64),
    )
    return step, table


def before(parts: Sequence[Part], block_tokens: int) -> list[int]:
    """The blocks that hold something before the pass, each once."""
    held = (block for p in parts for block in p.blocks[: -(-p.first // block_tokens)])
    return list(dict.fromkeys(held))


def touched(parts: Sequence[Part], block_tokens: int) -> list[int]:
    """The blocks that the pass writes to."""
    return [block for p in parts for block in p.blocks[p.first // block_tokens :]]
