"""Dealing images out: weights of clients over cells become whole images, none of them twice.

A cell is a set of images that are alike to the partition: one class, or one class of one domain.
`weights` is float64 [clients, cells], `stock` int64 [cells], the images that a cell holds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silva.errors import PartitionError

Counts = NDArray[np.int64]
Weights = NDArray[np.float64]

_REMEDY = "use fewer clients or fewer samples per client"


def largest_remainder(weights: Weights, totals: Counts) -> Counts:
    """Split totals[i] over row i in proportion to its weights, in whole numbers: int64, same shape.

    Row sums are exact, every entry is less than one away from its share, and nothing falls where
    the weight is 0. A row whose total is positive needs a positive weight.
    """
    sums = weights.sum(axis=1, keepdims=True)
    shares = totals[:, None] * np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
    # The small constant keeps 2.9999999 from losing the whole it stands for.
    whole: Counts = np.floor(shares + 1e-9).astype(np.int64)
    remainder = np.where(weights > 0, shares - whole, -1.0)
    order = np.argsort(-remainder, axis=1, kind="stable")
    extra = np.arange(weights.shape[1])[None, :] < (totals - whole.sum(axis=1))[:, None]
    np.put_along_axis(whole, order, np.take_along_axis(whole, order, axis=1) + extra, axis=1)
    return whole


def deal_everything(weights: Weights, stock: Counts) -> Counts:
    """Deal out every cell that some client wants, by the clients' weights: int64 [clients, cells].

    Cells without any weight stay undealt.
    """
    wanted = np.where(weights.sum(axis=0) > 0, stock, 0)
    return largest_remainder(np.ascontiguousarray(weights.T), wanted).T.copy()


def deal_equally(weights: Weights, stock: Counts, samples: int) -> Counts:
    """Give each client `samples` images by its weights: int64 [clients, cells].

    Where a cell is wanted by more than it holds, all its clients get the same fraction of what
    they want, and the rest of their images comes from their other cells by their weights. Raises
    PartitionError when the images do not suffice.
    """
    clients, held = len(weights), int(stock.sum())
    if clients * samples > held:
        raise PartitionError(
            f"{clients} clients x {samples} samples need more than the data set's {held} "
            "train images",
            remedy=_REMEDY,
        )
    dealt = np.zeros(weights.shape, dtype=np.int64)
    left, need = stock.copy(), np.full(clients, samples, dtype=np.int64)
    while need.any():
        usable = weights * (left > 0)
        dry = np.flatnonzero((need > 0) & (usable.sum(axis=1) == 0))
        if len(dry):
            raise PartitionError(
                f"the classes of {len(dry)} of {clients} clients run out of train images at "
                f"{samples} samples per client",
                remedy=_REMEDY + ", or 0 samples to deal out what there is",
            )
        granted = _grant(largest_remainder(usable, need), left)
        dealt += granted
        left -= granted.sum(axis=0)
        need -= granted.sum(axis=1)
    return dealt


def _grant(wanted: Counts, left: Counts) -> Counts:
    """Cut the wishes for a cell down to what is left of it, in proportion."""
    demand = wanted.sum(axis=0)
    short = np.flatnonzero(demand > left)
    granted = wanted.copy()
    granted[:, short] = largest_remainder(wanted[:, short].T.astype(np.float64), left[short]).T
    return granted


def draw_disjoint(
    counts: Counts, pools: list[Counts], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draw counts[i, cell] rows of pools[cell] for client i, no row twice: sorted rows a client."""
    clients = np.arange(len(counts))
    owners, rows = [], []
    for cell, pool in enumerate(pools):
        owner = np.repeat(clients, counts[:, cell])
        owners.append(owner)
        rows.append(rng.permutation(pool)[: len(owner)])
    owner, row = np.concatenate(owners), np.concatenate(rows)
    order = np.lexsort((row, owner))
    return np.split(row[order], np.cumsum(counts.sum(axis=1))[:-1])


def draw_shared(
    counts: Counts, pools: list[Counts], most: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draw at most `most` rows for each client in the proportions of its row of `counts`.

    No row comes twice to one client, but clients share the pools: two may draw the same row. A
    cell gives no more than it holds, so a client may end up with fewer than `most`, and with none
    at all when its cells are empty here.
    """
    stock = np.array([len(pool) for pool in pools], dtype=np.int64)
    weights = counts * (stock > 0)
    totals = np.where(weights.any(axis=1), most, 0).astype(np.int64)
    quotas = np.minimum(largest_remainder(weights.astype(np.float64), totals), stock)
    drawn = []
    for quota in quotas:
        parts = [
            rng.choice(pools[cell], quota[cell], replace=False, shuffle=False)
            for cell in np.flatnonzero(quota)
        ]
        drawn.append(np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64))
    return drawn
