"""Subspaces spanned by LoRA factors: bases, principal angles, distances (tuning.md, section 1.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.kernels import Backend, projector_overlap

Bases = Mapping[str, Tensor]
"""One matrix [p, r] by module name; its column space is what counts."""

NEGLIGIBLE = 1e-8
"""A factor of smaller Frobenius norm has no direction yet and is skipped."""


def unit(factor: Tensor) -> Tensor:
    """`factor` at Frobenius norm 1, or unchanged where it is negligible."""
    norm = factor.norm()
    return factor / norm if norm > NEGLIGIBLE else factor


def align(factor: Tensor, reference: Tensor) -> Tensor:
    """Rotate the columns of `factor` [p, r] onto `reference` (orthogonal Procrustes).

    The column space stays; only the arbitrary choice of basis, which an average over rounds must
    not see, is removed.
    """
    u, _, vt = torch.linalg.svd(factor.T @ reference)
    return factor @ (u @ vt)


def basis(factor: Tensor) -> Tensor:
    """Left singular vectors [p, r] of `factor` [p, r], most important first, signs fixed."""
    return fix_signs(torch.linalg.svd(factor.double(), full_matrices=False)[0]).to(factor.dtype)


def fix_signs(vectors: Tensor) -> Tensor:
    """Flip columns so that the entry of largest size in each is positive."""
    largest = vectors.abs().argmax(dim=0)
    signs = vectors[largest, torch.arange(vectors.shape[1])].sign()
    return vectors * torch.where(signs == 0, 1.0, signs)


def overlap(x: Tensor, y: Tensor) -> float:
    """Mean squared cosine of the principal angles between two column spaces, in [0, 1].

    ||Q_X^T Q_Y||_F^2 / min(r_X, r_Y), with Q an orthonormal basis (section 1.2).
    """
    q_x, q_y = torch.linalg.qr(x.double())[0], torch.linalg.qr(y.double())[0]
    return float((q_x.T @ q_y).square().sum() / min(x.shape[1], y.shape[1]))


def mean_overlap(x: Bases, y: Bases) -> float:
    """`overlap` averaged over the modules that both hold and that have a direction."""
    shared = [n for n in x if n in y and min(x[n].norm(), y[n].norm()) > NEGLIGIBLE]
    return sum(overlap(x[n], y[n]) for n in shared) / len(shared) if shared else 0.0


def direction_distances(features: Sequence[Bases]) -> NDArray[np.float64]:
    """Pairwise d_ij = (1 - cos(X_i, X_j)) / 2, averaged over modules: [n, n], zero diagonal.

    In [0, 1], 1/2 for unrelated factors and for one without a direction. Unlike `distances` it sees
    signs and single columns: the factors must share a basis.
    """
    total = torch.zeros(len(features), len(features), dtype=torch.float64)
    for name in features[0]:
        rows = torch.stack([f[name].flatten().double() for f in features])
        rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=NEGLIGIBLE)
        total += rows @ rows.T
    cosines = ((total + total.T) / 2 / max(len(features[0]), 1)).numpy()
    result = np.clip((1.0 - cosines) / 2, 0.0, 1.0)
    np.fill_diagonal(result, 0.0)
    return result


def distances(features: Sequence[Bases], *, backend: Backend = "auto") -> NDArray[np.float64]:
    """Pairwise d_ij = 1 - ||U_i^T U_j||_F^2 / r, averaged over modules: [n, n], zero diagonal.

    Equation 8 of the paper. Modules in which any client has no direction yet are left out.
    """
    usable = [
        name for name in sorted(features[0]) if all(f[name].norm() > NEGLIGIBLE for f in features)
    ]
    if not usable:
        return 1.0 - np.eye(len(features))
    similarity = np.zeros((len(features), len(features)))
    for names in _of_one_shape(features[0], usable):
        stacked = torch.stack([torch.stack([basis(f[name]) for name in names]) for f in features])
        overlaps = projector_overlap(stacked.numpy().astype(np.float32), backend=backend)
        similarity += np.asarray(overlaps, dtype=np.float64) * (len(names) / len(usable))
    result = np.clip(1.0 - similarity, 0.0, 1.0)
    result = (result + result.T) / 2
    np.fill_diagonal(result, 0.0)
    return result


def _of_one_shape(feature: Bases, names: Sequence[str]) -> list[list[str]]:
    """`names` by the shape of their factors: values have fewer rows than queries where heads share."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(feature[name].shape), []).append(name)
    return list(groups.values())
