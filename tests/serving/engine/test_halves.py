"""The attention of a step in two halves is that of the whole step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from silva.models.kept import Latent
from silva.models.latent import DivisibleLatents, LatentHeads
from silva.serving.engine.attend import PagedLatents
from silva.serving.engine.kv import KVMemory, KVShape

BLOCK, RANK, ROPE, NOPE, VALUE, HEADS = 4, 8, 4, 6, 5, 2


def step_of(counts: list[int], contexts: list[int]) -> tuple[PagedLatents, torch.Tensor]:
    """A step over a memory in which something lies already, and the latents of its tokens."""
    source = torch.Generator().manual_seed(1)
    width = -(-max(contexts) // BLOCK)
    shape = KVShape(1, Latent(RANK + ROPE), BLOCK, torch.float32)
    memory = KVMemory(shape, len(counts) * width)
    memory.latents[0].copy_(torch.randn(memory.latents[0].shape, generator=source))
    table = np.random.default_rng(2).permutation(len(counts) * width).astype(np.int32)
    table = table.reshape(len(counts), width)
    places = [
        int(table[n, at // BLOCK]) * BLOCK + at % BLOCK
        for n, (count, context) in enumerate(zip(counts, contexts, strict=True))
        for at in range(context - count, context)
    ]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    latent = torch.randn(sum(counts), RANK + ROPE, generator=source)
    own = np.array(contexts, np.int32)
    return PagedLatents(memory, table, starts, own, np.array(places, np.int64)), latent


@pytest.mark.parametrize(
    ("counts", "rows"),
    [
        ([1, 1, 1, 1], 2),
        ([1, 2, 1, 2, 1], 3),  # with drafts
        ([1, 1, 20], 2),  # a prompt, which is not cut
        ([20, 1], 20),
        ([1, 1], 1),
    ],
)
def test_halves_are_of_whole_sequences_and_say_the_same(counts: list[int], rows: int) -> None:
    contexts = [count + 3 + 4 * n for n, count in enumerate(counts)]
    source = torch.Generator().manual_seed(3)
    q = torch.randn(sum(counts), HEADS, NOPE + ROPE, generator=source)
    heads = LatentHeads(torch.randn(HEADS, NOPE + VALUE, RANK, generator=source), NOPE, 0.3)
    whole, latent = step_of(counts, contexts)
    wanted = whole(0, q, latent, heads)
    step, _ = step_of(counts, contexts)
    assert isinstance(step, DivisibleLatents)
    halves = step.halves()
    assert halves is not None
    assert halves.rows == rows
    first = halves.first(0, q[:rows], latent[:rows], heads)
    second = halves.second(0, q[rows:], latent[rows:], heads)
    torch.testing.assert_close(torch.cat([first, second]), wanted)
    torch.testing.assert_close(step.memory.latents[0], whole.memory.latents[0])


def test_one_sequence_has_no_halves() -> None:
    step, _ = step_of([7], [7])
    assert step.halves() is None
