"""The working table of a placement: many independent problems side by side, one a row.

A row is a layer, or one node of a layer: experts to spread over ranks of some slots each. Every
operation is done in all rows at once, since the cost of a call is far above that of one row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

EMPTY = -1
"""Stands for an expert's number where a slot holds none."""
SLACK = 1e-9
"""Relative: sums in another order differ by as much."""
PARTNERS = 16
"""Ranks, the least loaded, with which the most loaded one tries to swap before it tries all."""
LOSERS = 16
"""Experts, those whose replicas would carry least with one less, that `clone` may take it from."""


class Table:
    """load [rows, experts], alive [rows, ranks]; slots [rows, ranks, slots] of experts or EMPTY.

    An expert's load is shared evenly by its replicas, and no rank holds an expert twice. `counts`
    [rows, experts] are the replicas, `rank_load` [rows, ranks] is what they bring. `holds`
    [rows, experts, ranks] says which rank has which expert.
    """

    def __init__(self, load: Floats, alive: Bools, slots: Ints) -> None:
        self.load, self.alive, self.slots = load, alive, slots.copy()
        self.holds: Bools = np.zeros((*load.shape, alive.shape[1]), bool)
        row, rank, slot = np.nonzero(slots != EMPTY)
        self.holds[row, slots[row, rank, slot], rank] = True
        self.counts: Ints = self.holds.sum(axis=2)
        self.rank_load: Floats = np.zeros(alive.shape)
        self._reload(np.arange(len(load)))

    def share(self, rows: Ints | slice = slice(None)) -> Floats:
        """Load of each replica [rows, experts]; infinite for an expert without one."""
        counts = self.counts[rows]
        share: Floats = np.where(counts > 0, self.load[rows] / np.maximum(counts, 1), np.inf)
        return share

    def peak(self) -> Floats:
        """Load of the most loaded rank [rows]."""
        return self.rank_load.max(axis=1)

    def above(self, target: Floats) -> Ints:
        """Rows in which a rank carries more than `target` [rows]."""
        return np.flatnonzero(self.peak() > target * (1 + SLACK))

    def take(self, rows: Ints, other: Table, places: Ints) -> None:
        """Become what `other` has at `places`, in `rows`."""
        for name in ("slots", "holds", "counts", "rank_load"):
            getattr(self, name)[rows] = getattr(other, name)[places]

    def put(self, rows: Ints, rank: Ints, slot: Ints, expert: Ints) -> None:
        """Write one expert into one slot of each of `rows`, over whatever is there."""
        old = self.slots[rows, rank, slot]
        real = old != EMPTY
        self.holds[rows[real], old[real], rank[real]] = False
        self.counts[rows[real], old[real]] -= 1
        self.slots[rows, rank, slot] = expert
        self.holds[rows, expert, rank] = True
        self.counts[rows, expert] += 1
        self._reload(rows)

    def _reload(self, rows: Ints) -> None:
        slots = self.slots[rows]
        flat = slots.reshape(len(rows), slots.shape[1] * slots.shape[2])
        each = np.take_along_axis(self.share(rows), np.maximum(flat, 0), axis=1)
        each[flat == EMPTY] = 0.0
        self.rank_load[rows] = each.reshape(slots.shape).sum(axis=2)

    def swap(self, rows: Ints) -> Bools:
        """The best swap of each row's most loaded rank; False where none lowers its load.

        The other rank ends below what the most loaded one had.
        """
        if not len(rows):
            return np.zeros(0, bool)
        done = self._swap(rows, PARTNERS)
        if not done.all():
            done[~done] = self._swap(rows[~done], self.alive.shape[1])
        return done

    def _swap(self, rows: Ints, partners: int) -> Bools:
        n = np.arange(len(rows))[:, None]
        rank_load = self.rank_load[rows]
        hot = rank_load.argmax(axis=1)
        cold = np.where(self.alive[rows], rank_load, np.inf)
        if partners < cold.shape[1]:
            others = np.argpartition(cold, partners, axis=1)[:, :partners]
        else:
            others = np.broadcast_to(np.arange(cold.shape[1]), cold.shape)
        # The last column is what EMPTY brings.
        share = np.concatenate([self.share(rows), np.zeros((len(rows), 1))], axis=1)
        mine, theirs = self.slots[rows, hot], self.slots[rows[:, None], others]
        # Axes from here on: row, slot of the hot rank, partner, slot of the partner.
        gain = share[n, mine][:, :, None, None] - share[n[:, :, None], theirs][:, None]
        before = rank_load[n[:, 0], hot]
        after = np.maximum(
            before[:, None, None, None] - gain, cold[n, others][:, None, :, None] + gain
        )
        there = self.holds[rows[:, None, None], mine[:, :, None], others[:, None, :]]
        here = self.holds[rows[:, None, None], theirs, hot[:, None, None]] & (theirs != EMPTY)
        barred = (mine == EMPTY)[:, :, None, None] | there[:, :, :, None] | here[:, None]
        flat = np.where(barred, np.inf, after).reshape(len(rows), barred[:1].size)
        best = flat.argmin(axis=1)
        good: Bools = flat[n[:, 0], best] < before * (1 - SLACK)
        a, partner, b = np.unravel_index(best[good], after.shape[1:])
        self._exchange(rows[good], hot[good], a, others[good, partner], b)
        return good

    def _exchange(self, rows: Ints, one: Ints, a: Ints, other: Ints, b: Ints) -> None:
        mine, theirs = self.slots[rows, one, a], self.slots[rows, other, b]
        self.slots[rows, one, a], self.slots[rows, other, b] = theirs, mine
        self.holds[rows, mine, one], self.holds[rows, mine, other] = False, True
        real = theirs != EMPTY
        there = rows[real], theirs[real]
        self.holds[(*there, other[real])], self.holds[(*there, one[real])] = False, True
        self._reload(rows)

    def clone(self, row: int) -> bool:
        """Clone an expert of one row's most loaded rank over another's replica, where that helps.

        Everything that carries more afterwards ends below what the most loaded rank had.
        """
        load, counts, holds = self.load[row], self.counts[row], self.holds[row]
        ranks, rank_load = np.arange(holds.shape[1]), self.rank_load[row]
        hot = int(rank_load.argmax())
        a = np.flatnonzero(holds[:, hot] & (counts < self.alive[row].sum()))
        left = np.where(counts > 1, load / np.maximum(counts - 1, 1), np.inf)
        b = np.argsort(left, kind="stable")[:LOSERS]
        b = b[counts[b] > 1]
        if not len(a) or not len(b):
            return False
        less = load[a] / counts[a] - load[a] / (counts[a] + 1)
        more = left[b] - load[b] / counts[b]
        # Axes: expert that gains a replica, expert that loses one, rank.
        after = rank_load - less[:, None, None] * holds[a][:, None] + more[:, None] * holds[b]
        after = np.where(holds[b] | (ranks == hot), after, -np.inf)
        top = after.argmax(axis=2)[:, :, None]
        first = np.take_along_axis(after, top, axis=2)
        np.put_along_axis(after, top, -np.inf, axis=2)
        others = np.where(ranks == top, after.max(axis=2, keepdims=True), first)
        itself = rank_load + (load[a] / (counts[a] + 1))[:, None, None]
        itself = itself - (load[b] / counts[b])[:, None]
        allowed = holds[b] & ~holds[a][:, None]
        cost = np.where(allowed, np.maximum(itself, others), np.inf)
        best = int(cost.argmin())
        if not cost.flat[best] < rank_load[hot] * (1 - SLACK):
            return False
        gains, loses, rank = np.unravel_index(best, cost.shape)
        slot = np.flatnonzero(self.slots[row, rank] == b[loses])[:1]
        self.put(np.array([row]), np.array([rank]), slot, a[[gains]])
        return True
