"""Aggregation in product space: the mean of B_i A_i, cut back to rank r (docs/tuning.md, section 1.4).

Averaging the factors apart would bring cross terms, since mean(B) mean(A) != mean(B A). The mean
product has rank N r; its best rank-r approximation resets the pair to B = U, A = S V^T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silva.adapters.subspace import fix_signs
from silva.adapters.tiers import Head, LoraPair

FACTORED_SHARE = 0.7
"""The factored form pays while N r stays below this share of min(p, q)."""

EXACT_SIDE = 512
"""Largest min(p, q) for which the dense sum is decomposed exactly rather than at random."""

Pairs = Mapping[str, LoraPair]


@dataclass(frozen=True)
class Aggregated:
    """The new pair and `trunc_energy` = 1 - (kept squared singular values) / (all of them)."""

    pair: LoraPair
    trunc_energy: float


def product_svd(
    pairs: Sequence[LoraPair],
    weights: Sequence[float],
    rank: int,
    *,
    method: str = "auto",
    split: str = "paper",
) -> Aggregated:
    """Rank-`rank` truncated SVD of sum_i weights_i B_i A_i.

    method: "factored" (QR of the stacked factors), "dense" (SVD of the [p, q] sum), "randomised"
    (range finder with oversampling 8 and 4 power iterations) or "auto" by size. split: "paper" puts
    all scale in A, "balanced" shares it.
    """
    out_features, in_features = pairs[0].B.shape[0], pairs[0].A.shape[1]
    side, stacked = min(out_features, in_features), sum(p.rank for p in pairs)
    if method == "auto":
        if stacked < FACTORED_SHARE * side:
            method = "factored"
        else:
            method = "dense" if side <= EXACT_SIDE else "randomised"
    left = torch.cat([p.B.double() * w for p, w in zip(pairs, weights, strict=True)], dim=1)
    right = torch.cat([p.A.double() for p in pairs], dim=0)
    u, s, vt, energy = _DECOMPOSE[method](left, right, rank)
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    signed = fix_signs(u)
    vt = vt * (signed * u).sum(dim=0).sign()[:, None]
    lost = float(1 - s.square().sum() / energy) if energy > 0 else 0.0
    if split == "balanced":
        root = s.sqrt()
        pair = LoraPair(B=(signed * root).float(), A=(root[:, None] * vt).float())
    else:
        pair = LoraPair(B=signed.float(), A=(s[:, None] * vt).float())
    return Aggregated(_widen(pair, rank), max(lost, 0.0))


def _widen(pair: LoraPair, rank: int) -> LoraPair:
    """Pad with empty directions where the mean product cannot have `rank` of them."""
    missing = rank - pair.rank
    if missing <= 0:
        return LoraPair(B=pair.B.contiguous(), A=pair.A.contiguous())
    B = torch.cat([pair.B, pair.B.new_zeros(pair.B.shape[0], missing)], dim=1)
    A = torch.cat([pair.A, pair.A.new_zeros(missing, pair.A.shape[1])], dim=0)
    return LoraPair(B=B, A=A)


Decomposition = tuple[Tensor, Tensor, Tensor, float]
"""U [p, k], S [k], V^T [k, q] and the sum of all squared singular values."""


def _factored(left: Tensor, right: Tensor, rank: int) -> Decomposition:
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    return q_left @ u, s, vt @ q_right.T, float(s.square().sum())


def _dense(left: Tensor, right: Tensor, rank: int) -> Decomposition:
    u, s, vt = torch.linalg.svd(left @ right, full_matrices=False)
    return u, s, vt, float(s.square().sum())


def _randomised(left: Tensor, right: Tensor, rank: int) -> Decomposition:
    total = left @ right
    width = min(rank + 8, *total.shape)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(total.shape[1], width, generator=generator, dtype=total.dtype)
    q = torch.linalg.qr(total @ sample)[0]
    for _ in range(4):
        q = torch.linalg.qr(total @ torch.linalg.qr(total.T @ q)[0])[0]
    u, s, vt = torch.linalg.svd(q.T @ total, full_matrices=False)
    return q @ u, s, vt, float(total.square().sum())


_DECOMPOSE = {"factored": _factored, "dense": _dense, "randomised": _randomised}


def mean_head(heads: Sequence[Head], weights: Sequence[float]) -> Head:
    """Weighted mean of linear heads."""
    weight = torch.stack([h.weight * w for h, w in zip(heads, weights, strict=True)]).sum(dim=0)
    bias = torch.stack([h.bias * w for h, w in zip(heads, weights, strict=True)]).sum(dim=0)
    return Head(weight=weight, bias=bias)


def shares(counts: Sequence[int], kind: str) -> list[float]:
    """pi_i: proportional to the clients' images ("samples") or equal ("uniform"); sums to 1."""
    if kind == "uniform":
        return [1 / len(counts)] * len(counts)
    return [n / sum(counts) for n in counts]


def relative_change(new: Pairs, old: Pairs) -> float:
    """rho = ||dW_new - dW_old||_F / ||dW_old||_F over all modules (section 1.3).

    Computed from r x r Gram matrices, never forming a [p, q] product. Where there was nothing yet,
    everything is new and the answer is 1.
    """
    change = previous = 0.0
    for name, pair in new.items():
        before = old[name]
        cross = _inner(pair, before)
        norm_old = _inner(before, before)
        change += _inner(pair, pair) - 2 * cross + norm_old
        previous += norm_old
    if previous <= 0:
        return 1.0 if change > 0 else 0.0
    return float((max(change, 0.0) / previous) ** 0.5)


def _inner(x: LoraPair, y: LoraPair) -> float:
    """<B_x A_x, B_y A_y>_F."""
    gram_b = x.B.double().T @ y.B.double()
    gram_a = x.A.double() @ y.A.double().T
    return float((gram_b * gram_a).sum())
