"""Drawing tokens: uniform numbers by counting, cuts of a distribution, and the inverse of its sum.

All functions take a batch [rows, ...] and treat each row by itself, so that what a request is given
depends neither on its company nor on who computes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SEED_MASK = (1 << 64) - 1
"""A seed may be any whole number: its lowest 64 bits count."""

GAMMA = np.uint64(0x9E3779B97F4A7C15)
BUCKET = 256
"""Tokens whose weights are summed before the sums are searched."""
BINS, DEEPEST = 4096, 32.0
"""Values from 0 to -DEEPEST fall into BINS bins; what lies deeper into the last."""


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves every output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each pair of seed and position, and for nothing else."""
    bits = mix(mix(seeds + GAMMA) + (positions.astype(np.uint64) + np.uint64(1)) * GAMMA)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def cuts(
    x: Floats,
    top_k: NDArray[np.int64],
    top_p: NDArray[np.float64],
    min_p: NDArray[np.float64],
) -> Floats:
    """The least value that stays in each row of x [rows, vocab], whose maximum must be 0.

    First the `top_k` largest stay (0: all), of their distribution the fewest whose sum reaches
    `top_p`, then those at least `min_p` times as likely as the likeliest. What equals the least
    value stays too. As the warpers of transformers, in their order.
    """
    with np.errstate(divide="ignore"):
        cut = np.log(min_p).astype(np.float32)
    few = (top_k > 0) & (top_k < x.shape[1])
    rows = np.flatnonzero(few)
    if len(rows):
        some = x if len(rows) == len(x) else x[rows]
        head = torch.from_numpy(some).topk(int(top_k[rows].max()), dim=1).values.numpy()
        cut[rows] = np.maximum(cut[rows], _least_of_head(head, top_k[rows], top_p[rows]))
    for row in np.flatnonzero(~few & (top_p < 1.0)).tolist():
        cut[row] = max(cut[row], nucleus(x[row], float(top_p[row])))
    return cut


def _least_of_head(head: Floats, top_k: NDArray[np.int64], top_p: NDArray[np.float64]) -> Floats:
    """The least value that stays of the largest values `head` [rows, n], which descend."""
    weights = np.exp(head, dtype=np.float64)
    weights[np.arange(head.shape[1]) >= top_k[:, None]] = 0.0
    sums = weights.cumsum(axis=1)
    # A value stays while the sum of those before it is short of top_p.
    stays = (sums - weights < top_p[:, None] * sums[:, -1:]).sum(axis=1)
    kept = np.where(top_p < 1.0, np.minimum(stays, top_k), top_k).clip(1)
    return head[np.arange(len(head)), kept - 1]


def nucleus(x: Floats, top_p: float) -> float:
    """The least value of the fewest largest of x [vocab] whose weights exp(x) sum to `top_p`.

    arXiv 1904.09751. Values are counted into BINS by size, and only the bin in which the sum is
    reached is sorted: ordering a whole vocabulary takes as long as a step of a small model.
    """
    weights = np.exp(x)
    bins = np.minimum(x * (-BINS / DEEPEST), BINS - 1).astype(np.int64)
    sums = np.bincount(bins, weights, minlength=BINS).cumsum()
    target = top_p * sums[-1]
    found = int(np.searchsorted(sums, target))
    inside = np.sort(x[bins == found])[::-1]
    before = (sums[found - 1] if found else 0.0) + np.exp(inside, dtype=np.float64).cumsum()
    return float(inside[min(int(np.searchsorted(before, target)), len(inside) - 1)])


def choose(x: Floats, u: NDArray[np.float64]) -> NDArray[np.int64]:
    """The token at which the sum of weights exp(x) in order of token ids exceeds ``u`` of their sum.

    x [rows, vocab] with maximum 0, -inf for what must not come; u [rows] in [0, 1). Sums of BUCKET
    weights are searched before the weights themselves. `x` is overwritten.
    """
    rows, vocab = x.shape
    buckets = -(-vocab // BUCKET)
    if vocab % BUCKET:
        weights = np.zeros((rows, buckets * BUCKET), np.float32)
        np.exp(x, out=weights[:, :vocab])
    else:
        weights = np.exp(x, out=x)
    parts = weights.reshape(rows, buckets, BUCKET)
    sums = parts.sum(axis=2).cumsum(axis=1, dtype=np.float64)
    target = u * sums[:, -1]
    bucket = np.minimum((sums <= target[:, None]).sum(axis=1), buckets - 1)
    every = np.arange(rows)
    before = np.where(bucket > 0, sums[every, bucket - 1], 0.0)
    inner = parts[every, bucket].cumsum(axis=1, dtype=np.float64)
    place = (inner <= (target - before)[:, None]).sum(axis=1)
    tokens = bucket * BUCKET + place
    # Rounding can carry the target past a bucket: then its last token that has any weight is meant.
    for row in np.flatnonzero((place == BUCKET) | (tokens >= vocab)):
        inside = np.flatnonzero(parts[row, bucket[row]])
        last = bucket[row] * BUCKET + inside[-1] if len(inside) else 0
        tokens[row] = last if len(inside) else np.flatnonzero(weights[row])[-1]
    return tokens
