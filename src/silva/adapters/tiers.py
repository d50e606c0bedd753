"""The parts of an adapter: a low-rank pair, a head, a tier of both, a path root -> cluster -> leaf.

    W_i = W_0 + s (B_r A_r + B_c A_c + B_l A_l),   s = alpha / rank          (tuning.md, section 1.1)

Everything here is plain data: `torch` tensors in frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TierName = Literal["root", "cluster", "leaf"]
TIERS: tuple[TierName, ...] = ("root", "cluster", "leaf")
"""The three tiers, in the order in which they are trained and added."""


@dataclass(frozen=True)
class LoraPair:
    """One module's low-rank pair: B [out, rank] spans directions, A [rank, in] moves along them."""

    B: Tensor
    A: Tensor

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    def product(self) -> Tensor:
        """B A [out, in], without the scaling."""
        return self.B @ self.A


@dataclass(frozen=True)
class Head:
    """A linear classifier: weight [classes, hidden], bias [classes]."""

    weight: Tensor
    bias: Tensor

    @property
    def classes(self) -> int:
        """Rows; 0 for `NO_HEAD`."""
        return len(self.bias)


NO_HEAD = Head(weight=torch.zeros(0, 0), bias=torch.zeros(0))
"""The head of a tier of a language model, whose own frozen head serves everybody."""


@dataclass(frozen=True)
class Tier:
    """One tier's pairs by module name, and the head that was trained with them.

    `scaling` is alpha / rank; every pair of a tier shares it.
    """

    name: TierName
    pairs: Mapping[str, LoraPair]
    head: Head
    scaling: float


@dataclass(frozen=True)
class AdapterPath:
    """The tiers that serve one client, from the root down; the last tier's head classifies."""

    tiers: tuple[Tier, ...]

    @property
    def head(self) -> Head:
        return self.tiers[-1].head

    def update(self, module: str) -> Tensor:
        """Effective update of one module's weight [out, in]: sum over tiers of s B A."""
        parts = [t.scaling * t.pairs[module].product() for t in self.tiers if module in t.pairs]
        return torch.stack(parts).sum(dim=0)

    def modules(self) -> list[str]:
        """Names of all adapted modules, sorted."""
        return sorted({name for tier in self.tiers for name in tier.pairs})

    def flattened(self) -> Tier:
        """The path as one tier with the same updates and the last tier's name and head.

        A = [A_r; A_c; A_l] and B = [B_r, B_c, B_l] with rank 3r: exact, nothing is multiplied out.
        Tiers of unequal scaling s get B = [s_r B_r, ...] and scaling 1.
        """
        shared = {tier.scaling for tier in self.tiers}
        scaling = shared.pop() if len(shared) == 1 else 1.0
        pairs = {}
        for module in self.modules():
            parts = [
                (t.pairs[module], t.scaling / scaling) for t in self.tiers if module in t.pairs
            ]
            columns = [pair.B if share == 1.0 else pair.B * share for pair, share in parts]
            pairs[module] = LoraPair(
                B=torch.cat(columns, dim=1), A=torch.cat([pair.A for pair, _ in parts])
            )
        return Tier(self.tiers[-1].name, pairs, self.head, scaling)
