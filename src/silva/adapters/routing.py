"""Which cluster an unseen client belongs to, from a light probe of its subspace (section 1.6)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from silva.adapters.subspace import Bases, basis, mean_overlap


def signature(factors: Bases) -> dict[str, Tensor]:
    """Representative subspace of a cluster: an orthonormal basis of B by module."""
    return {name: basis(factor) for name, factor in factors.items()}


def similarities(probe: Bases, signatures: Sequence[Bases]) -> list[float]:
    """Mean squared cosine of principal angles between the probe and every cluster, in [0, 1]."""
    return [mean_overlap(probe, candidate) for candidate in signatures]


def nearest(scores: Sequence[float]) -> int:
    """Index of the largest score; the first one of equals."""
    return max(range(len(scores)), key=lambda n: (scores[n], -n))
