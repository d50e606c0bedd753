"""Keeping a tier's output directions apart from those of the tiers above (tuning.md, section 1.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frozen:
    """B of a frozen tier by module, and the weight gamma of its term."""

    factors: Mapping[str, Tensor]
    gamma: float

    def to(self, device: torch.device) -> Frozen:
        """The same with every tensor on `device`."""
        return Frozen({n: B.to(device) for n, B in self.factors.items()}, self.gamma)


def penalty(factors: Mapping[str, Tensor], frozen: Sequence[Frozen], kind: str) -> Tensor | float:
    """sum over frozen tiers and modules of gamma ||B*^T B||_F^2.

    With kind "soft_normalised" each term is divided by ||B||_F^2, which makes the penalty blind to
    a rescaling B -> B/k, A -> kA. "none" and "hard" have no penalty.
    """
    if kind not in ("soft", "soft_normalised"):
        return 0.0
    total: Tensor | float = 0.0
    for tier in frozen:
        for name, B in factors.items():
            term = (tier.factors[name].T @ B).square().sum()
            if kind == "soft_normalised":
                term = term / (B.square().sum() + 1e-12)
            total = total + tier.gamma * term
    return total


@torch.no_grad()
def project(factors: Mapping[str, Tensor], bases: Sequence[Mapping[str, Tensor]]) -> None:
    """Remove from every B, in place, what lies in the frozen bases: B <- B - U U^T B.

    `bases` hold, by module, orthonormal columns that together span the frozen tiers' directions.
    """
    for name, B in factors.items():
        for tier in bases:
            B.sub_(tier[name] @ (tier[name].T @ B))


def joint_basis(frozen: Sequence[Frozen]) -> dict[str, Tensor]:
    """Orthonormal basis, by module, of everything the frozen tiers span."""
    names = frozen[0].factors if frozen else ()
    return {n: _span(torch.cat([f.factors[n] for f in frozen], dim=1)) for n in names}


def _span(columns: Tensor) -> Tensor:
    """Orthonormal columns of the same span; a tier that has not trained, B = 0, spans nothing."""
    u, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return u[:, s > 1e-5 * s.max()]
