"""Many adapter paths in one pass over a frozen model (docs/serving.md, "Forests").

    rows      0   1   2   3   4   5   6   7   8      in the order of their paths, the base's first
    root          └───────────────────────────┘      a run of rows a tier, nested
    cluster           └───────┘   └───────────┘
    leaf              └───┘           └───┘ └─┘

The base is multiplied once for all rows, and each tier once for its run: true ranks, no padding, no
merged copies of the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from silva.adapters.tiers import NO_HEAD, Head, LoraPair


@dataclass(frozen=True)
class Expansion:
    """One module's B, transposed and scaled [rank, out], and where it reads and adds."""

    B: Tensor
    inner: slice
    """Columns of ``x A``."""
    outer: slice
    """Columns of the linear map's result."""

    @classmethod
    def of(cls, pair: LoraPair, scaling: float, like: Tensor, rank: int, column: int) -> Expansion:
        """Of a pair whose part of ``x A`` starts at `rank`, and whose outputs start at `column`."""
        B = (scaling * pair.B).T.to(like.dtype).contiguous()
        inner, outer = slice(rank, rank + pair.rank), slice(column, column + len(pair.B))
        return cls(B, inner, outer)


@dataclass(frozen=True)
class Branch:
    """What one tier adds to one linear map: ``y[:, outer] += (x A)[:, inner] B`` for each module."""

    A: Tensor
    """[in, ranks of all modules together]"""
    expansions: tuple[Expansion, ...]


@dataclass(frozen=True)
class PackedTier:
    """A tier as it is computed with, by the names of the model's linear maps."""

    branches: Mapping[str, Branch]
    head: Head = NO_HEAD

    @property
    def size_bytes(self) -> int:
        """Of its tensors."""
        tensors = [t for b in self.branches.values() for t in (b.A, *(e.B for e in b.expansions))]
        tensors += [self.head.weight, self.head.bias]
        return sum(t.numel() * t.element_size() for t in tensors)


@dataclass(frozen=True)
class Run:
    """Rows [start, stop) of a pass, which all go through one tier."""

    start: int
    stop: int
    tier: PackedTier


def add_runs(y: Tensor, x: Tensor, name: str, runs: Sequence[Run]) -> Tensor:
    """Add to y [rows, ..., out], in place, what the tiers of `runs` make of x [rows, ..., in].

    Not for autograd. `name` is the linear map's.
    """
    for run in runs:
        branch = run.tier.branches.get(name)
        if branch is not None:
            rows = slice(run.start, run.stop)
            inner = x[rows].reshape(-1, x.shape[-1]) @ branch.A
            into = y[rows].view(-1, y.shape[-1])
            for each in branch.expansions:
                into[:, each.outer].addmm_(inner[:, each.inner], each.B)
    return y


def runs_of(paths: Sequence[Sequence[PackedTier]], counts: NDArray[np.int32]) -> list[Run]:
    """The runs of a pass whose sequence i has ``counts[i]`` rows and goes through ``paths[i]``.

    Equal beginnings of paths must stand beside each other. Tiers count as equal when they are one
    object. Runs come by depth: those of roots first.
    """
    ends = counts.cumsum().tolist()
    depth = max(map(len, paths), default=0)
    runs = []
    for level in range(depth):
        start, above = 0, None
        for n, path in enumerate(paths):
            beginning = tuple(map(id, path[: level + 1])) if len(path) > level else None
            if beginning != above:
                if above is not None:
                    runs.append(Run(start, ends[n - 1], paths[n - 1][level]))
                start, above = ends[n - 1] if n else 0, beginning
        if above is not None:
            runs.append(Run(start, ends[-1], paths[-1][level]))
    return runs
