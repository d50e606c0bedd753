"""Several sequences at once, as a rank decodes them, in a memory that divides in two halves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from group_cases import Kept
from torch import Tensor

from silva.experts.ranked import RankedModel
from silva.models.latent import Halves, LatentHeads


@dataclass
class Many:
    """A `DivisibleLatents` of sequences one after the other, so many tokens of each."""

    kept: Sequence[Kept]
    counts: Sequence[int]

    def __call__(self, layer: int, q: Tensor, latent: Tensor, heads: LatentHeads) -> Tensor:
        pieces = zip(self.kept, q.split(self.counts), latent.split(self.counts), strict=True)
        return torch.cat([kept(layer, *piece, heads) for kept, *piece in pieces])

    def halves(self) -> Halves | None:
        cut = len(self.kept) // 2
        if not cut:
            return None
        first = Many(self.kept[:cut], self.counts[:cut])
        return Halves(sum(first.counts), first, Many(self.kept[cut:], self.counts[cut:]))


def generate_many(
    model: Any,
    prompts: Sequence[Sequence[int]],
    count: int,
    between: Callable[[int], object] = lambda step: None,
    *,
    drafts: bool = False,
) -> list[tuple[list[int], list[Tensor]]]:
    """As `generate`, of several prompts in one batch."""
    rows = [list(prompt) for prompt in prompts]
    kept, done = [Kept() for _ in rows], [0 for _ in rows]
    logits: list[list[Tensor]] = [[] for _ in rows]
    with torch.inference_mode():
        for step in range(count if rows else 0):
            counts = [len(row) - at for row, at in zip(rows, done, strict=True)]
            many, ends = Many(kept, counts), torch.tensor(counts).cumsum(0) - 1
            for memory, at in zip(kept, done, strict=True):
                memory.at = at
            new = [token for row, at in zip(rows, done, strict=True) for token in row[at:]]
            positions = torch.cat(
                [torch.arange(at, len(row)) for row, at in zip(rows, done, strict=True)]
            )
            hidden = model.hidden(torch.tensor(new), positions, many)
            found = model.logits(hidden[ends])
            for row, mine, said in zip(rows, logits, found, strict=True):
                mine.append(said)
                row.append(int(said.argmax()))
            if drafts and step % 2 == 0:
                following = [t for row, at in zip(rows, done, strict=True) for t in row[at + 1 :]]
                drafted = model.draft(hidden, torch.tensor(following), positions, many)
                for mine, said in zip(logits, model.logits(drafted[ends]), strict=True):
                    mine.append(said)
            done = [len(row) - 1 for row in rows]
            between(step)
    pairs = zip(prompts, rows, logits, strict=True)
    return [(row[len(prompt) :], mine) for prompt, row, mine in pairs]


class Noted:
    """Notes which passes of a rank were split."""

    def __init__(self, ranked: RankedModel) -> None:
        self.split: list[bool] = []
        splitting = ranked.group.splitting
        finished = splitting.finished

        def note() -> None:
            self.split.append(splitting.now)
            finished()

        splitting.finished = note  # type: ignore[method-assign]
