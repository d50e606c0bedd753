"""The greedy rule of placement: clone what is heaviest, then deal the replicas out.

The published rule of EPLB (github.com/deepseek-ai/EPLB): an expert is cloned, one after the other,
where a replica carries most; then replicas go, the heaviest first, to the least loaded rank with
room. One thing is stricter here: no rank is dealt the same expert twice.
"""

from __future__ import annotations

import numpy as np

from silva.control.placement_table import EMPTY, Bools, Floats, Ints


def replicate(load: Floats, capacity: Ints, most: Ints) -> Ints:
    """Replicas of each expert: `capacity` [rows] in all, at most `most` [rows] of one.

    load [rows, experts] -> [rows, experts], each at least 1. Ties go to the lower number.
    """
    counts = np.ones(load.shape, np.int64)
    share = np.where(most[:, None] > 1, load, -1.0)
    spare = capacity - load.shape[1]
    for done in range(int(spare.max(initial=0))):
        rows = np.flatnonzero(spare > done)
        chosen = share[rows].argmax(axis=1)
        counts[rows, chosen] += 1
        full = counts[rows, chosen] >= most[rows]
        share[rows, chosen] = np.where(full, -1.0, load[rows, chosen] / counts[rows, chosen])
    return counts


def deal(load: Floats, counts: Ints, alive: Bools, slots: int) -> Ints:
    """Replicas onto the ranks that are alive, at most `slots` each, all of a rank different.

    load, counts [rows, experts], alive [rows, ranks] -> experts or EMPTY [rows, ranks, slots].
    No expert may have more replicas than there are ranks alive.
    """
    return _Deal(load, counts, alive, slots, distinct=True).run().table


def published_peak(load: Floats, alive: Bools, slots: int) -> Floats:
    """Load of the most loaded rank under the published rule, to the letter: [rows].

    load [rows, experts], alive [rows, ranks], `slots` on each rank.
    """
    return _published(load, alive, slots).rank_load.max(axis=1)


def published_without_twins(load: Floats, alive: Bools, slots: int) -> Ints:
    """Slots under the published rule [rows, ranks, slots], EMPTY for what a rank has already."""
    table = _published(load, alive, slots).table
    same = table[..., :, None] == table[..., None, :]
    twin = np.tril(same, k=-1).any(axis=3)
    return np.where(twin, EMPTY, table)


def _published(load: Floats, alive: Bools, slots: int) -> _Deal:
    capacity = alive.sum(axis=1) * slots
    counts = replicate(load, capacity, capacity)
    return _Deal(load, counts, alive, slots, distinct=False).run()


class _Deal:
    """The state of one deal: `key` is a rank's load, infinite once it is full or when it is dead."""

    def __init__(
        self, load: Floats, counts: Ints, alive: Bools, slots: int, distinct: bool
    ) -> None:
        rows, ranks = alive.shape
        self.distinct, self.rank_load = distinct, np.zeros((rows, ranks))
        self.slots, self.total, self.living = slots, counts.sum(axis=1), alive.sum(axis=1)
        self.share = load / counts
        order = np.argsort(-self.share, axis=1, kind="stable")
        self.items = np.zeros((rows, int(self.total.max())), np.int64)
        for row in range(rows):
            dealt = np.repeat(order[row], counts[row, order[row]])
            self.items[row, : self.total[row]] = dealt
        self.table = np.full((rows, ranks, slots), EMPTY, np.int64)
        self.holds = np.zeros((rows, load.shape[1], ranks), bool)
        self.fill = np.zeros((rows, ranks), np.int64)
        self.key = np.where(alive, 0.0, np.inf)
        self._first_round(alive)

    def _first_round(self, alive: Bools) -> None:
        """While ranks are empty the least loaded one is simply the next one."""
        turn = alive.cumsum(axis=1) - 1
        row, rank = np.nonzero(alive & (turn < self.total[:, None]))
        self._place(row, rank, self.items[row, turn[row, rank]])

    def run(self) -> _Deal:
        for step in range(int(self.living.min()), self.items.shape[1]):
            rows = np.flatnonzero((step >= self.living) & (step < self.total))
            expert = self.items[rows, step]
            cost = self.key[rows]
            if self.distinct:
                cost = np.where(self.holds[rows, expert], np.inf, cost)
            rank = cost.argmin(axis=1)
            shut = np.isinf(cost[np.arange(len(rows)), rank])
            if shut.any():
                for row, one in zip(rows[shut], expert[shut], strict=True):
                    self._make_room(int(row), int(one))
                rows, rank, expert = rows[~shut], rank[~shut], expert[~shut]
            self._place(rows, rank, expert)
        return self

    def _place(self, rows: Ints, rank: Ints, expert: Ints) -> None:
        slot = self.fill[rows, rank]
        self.table[rows, rank, slot] = expert
        self.holds[rows, expert, rank] = True
        self.fill[rows, rank] = slot + 1
        load = self.rank_load[rows, rank] + self.share[rows, expert]
        self.rank_load[rows, rank] = load
        self.key[rows, rank] = np.where(slot + 1 == self.slots, np.inf, load)

    def _make_room(self, row: int, expert: int) -> None:
        """Every rank with room holds this expert: a full rank that does not gives one away first.

        There is one, since an expert has no more replicas than there are ranks; and of its experts,
        more than the rank with room has, at least one is new there.
        """
        holds = self.holds[row]
        roomy = int(self.key[row].argmin())
        full = int(np.flatnonzero((self.fill[row] == self.slots) & ~holds[expert])[0])
        given = next(int(e) for e in self.table[row, full] if not holds[e, roomy])
        slot = int(np.flatnonzero(self.table[row, full] == given)[0])
        holds[given, full] = False
        self._place(np.array([row]), np.array([roomy]), np.array([given]))
        self.table[row, full, slot] = expert
        holds[expert, full] = True
