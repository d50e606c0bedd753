"""A Llama-shaped model in one pass over tokens of many adapter paths (docs/serving.md, "Forests").

    rows      0   1   2   3   4   5   6   7   8      in the order of their paths
    root      └───────────────────────────┘   -      a run of rows a tier, nested
    cluster   └───────────┘   └───────┘
    leaf      └───┘   └───┘   └───┘

The base is multiplied once for all rows, and each tier once for its run: true ranks, no padding, no
merged copies of the base. The pairs of one linear map (queries and values lie in one) share the product
with A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.adapters.tiers import Tier
from silva.errors import ModelError
from silva.models.adapted import check_pair
from silva.models.adapted_llama import attention_parts
from silva.models.language import LanguageModel
from silva.models.llama import Llama


@dataclass(frozen=True)
class Expansion:
    """One module's B, transposed and scaled [rank, out], and where it reads and adds."""

    B: Tensor
    inner: slice
    """Columns of ``x A``."""
    outer: slice
    """Columns of the linear map's result."""


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

    @property
    def size_bytes(self) -> int:
        """Of its tensors."""
        tensors = [t for b in self.branches.values() for t in (b.A, *(e.B for e in b.expansions))]
        return sum(t.numel() * t.element_size() for t in tensors)


@dataclass(frozen=True)
class Run:
    """Rows [start, stop) of a pass, which all go through one tier."""

    start: int
    stop: int
    tier: PackedTier


class MixedLlama(Llama):
    """`model` for one pass whose rows go through `runs`. Its weights are the model's own."""

    def __init__(self, model: Llama, runs: Sequence[Run]) -> None:
        super().__init__(model.config, model.weights, name=model.name, digest=model.digest)
        self._runs = runs

    def linear(self, x: Tensor, name: str) -> Tensor:
        """See `Llama`. Not for autograd: what tiers add is added in place."""
        y = super().linear(x, name)
        for run in self._runs:
            branch = run.tier.branches.get(name)
            if branch is not None:
                rows = slice(run.start, run.stop)
                inner = x[rows] @ branch.A
                for each in branch.expansions:
                    y[rows, each.outer].addmm_(inner[:, each.inner], each.B)
        return y


def mixed(model: LanguageModel, runs: Sequence[Run]) -> LanguageModel:
    """`model` for one pass with these runs; without any it is the model itself."""
    if not runs:
        return model
    assert isinstance(model, Llama)  # `pack` refuses every other
    return MixedLlama(model, runs)


def pack(tier: Tier, model: LanguageModel) -> PackedTier:
    """A tier for a model, in its type. Raises ModelError where one does not fit the other."""
    if not isinstance(model, Llama):
        raise ModelError(
            "adapters are served on Llama-shaped models only",
            where=model.name,
            remedy="serve a model of the type llama, mistral, qwen2 or qwen3",
        )
    known, branches = set(tier.pairs), {}
    for linear, parts in attention_parts(model):
        mine, column, rank = [], 0, 0
        for module, (weight, _) in parts:
            pair, width = tier.pairs.get(module), len(weight)
            if pair is not None:
                check_pair(module, pair, weight)
                known.discard(module)
                B = (tier.scaling * pair.B).T.to(model.dtype).contiguous()
                inner, outer = slice(rank, rank + pair.rank), slice(column, column + width)
                mine.append((pair.A, Expansion(B, inner, outer)))
                rank += pair.rank
            column += width
        if mine:
            A = torch.cat([A for A, _ in mine]).T.to(model.dtype).contiguous()
            branches[linear] = Branch(A, tuple(expansion for _, expansion in mine))
    if known:
        raise ModelError(
            f"the model has no projection {min(known)[:100]!r}",
            where=model.name,
            remedy="the adapters were trained on a model of another shape",
        )
    return PackedTier(branches)


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
