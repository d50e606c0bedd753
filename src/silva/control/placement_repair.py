"""The stable rule of placement: keep what stands, change what must change.

Starting from the placement before, experts that lost all replicas come first, then those whose
replicas would each carry more than the target, then slots that stand empty, and at last swaps and
clones between ranks. A row is left alone as soon as none of its ranks carries more than the target,
so that a small change of the load moves few experts.
"""

from __future__ import annotations

import numpy as np

from silva.control.placement_greedy import deal, published_without_twins, replicate
from silva.control.placement_table import EMPTY, SLACK, Bools, Floats, Ints, Table

CLONES = 30
"""Times that a row may clone an expert when no swap helps any more."""
POLISH = 8
"""Swaps that a new placement may do beyond what it must."""
SHAKEN_SLOTS = 4096
"""Random starts for a row that ended above its target, in slots of all starts together: the smaller
a problem, the more luck the greedy rule may have had, and the more starts it is given."""
MOST_SHAKES = 96
ROWS_AT_ONCE = 16
"""Rows that are searched with all their starts at once: it bounds the memory."""


def needed(load: Floats, target: Floats, most: Ints) -> Ints:
    """Replicas without which one would carry more than `target` [rows]; at most `most` [rows].

    load [rows, experts] -> [rows, experts], each at least 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        need = np.ceil(load / target[:, None] * (1 - SLACK))
    return np.clip(np.nan_to_num(need, nan=1), 1, most[:, None]).astype(np.int64)


def fill(table: Table, need: Ints) -> None:
    """Give every expert its `need` [rows, experts] where there is room for it; fill all slots."""
    rows = np.flatnonzero((table.counts < need).any(axis=1))
    while len(rows):
        short = table.counts[rows] < need[rows]
        expert = np.where(short, table.share(rows), -1.0).argmax(axis=1)
        rows = rows[_add(table, rows, expert, need)]
        rows = rows[(table.counts[rows] < need[rows]).any(axis=1)]
    rows = _with_empty(table)
    while len(rows):
        _fill_emptiest(table, rows)
        rows = _with_empty(table)


def _add(table: Table, rows: Ints, expert: Ints, need: Ints) -> Bools:
    """One more replica of an expert in each row, where it does least harm; False: no room.

    An empty slot is taken first, then one whose expert can spare the replica. An expert that is
    nowhere takes any slot whose expert is elsewhere too.
    """
    width = table.slots.shape[2]
    flat = table.slots[rows].reshape(len(rows), -1)
    empty, held = flat == EMPTY, np.maximum(flat, 0)
    counts, least, load = (
        np.take_along_axis(each[rows], held, axis=1) for each in (table.counts, need, table.load)
    )
    missing = table.counts[rows, expert] == 0
    free = empty | (counts > least) | (missing[:, None] & (counts > 1))
    closed = ~table.alive[rows] | table.holds[rows, expert]
    free &= ~np.repeat(closed, width, axis=1)
    free &= empty | ~(free & empty).any(axis=1)[:, None]
    new = table.load[rows, expert] / (table.counts[rows, expert] + 1)
    old = np.where(empty, 0.0, load / np.maximum(counts, 1))
    left = np.where(empty, 0.0, load / np.maximum(counts - 1, 1))
    here = np.repeat(table.rank_load[rows], width, axis=1) - old + new[:, None]
    best = np.where(free, np.maximum(here, left), np.inf).argmin(axis=1)
    done: Bools = free[np.arange(len(rows)), best]
    rank, slot = np.divmod(best[done], width)
    table.put(rows[done], rank, slot, expert[done])
    return done


def _with_empty(table: Table) -> Ints:
    return np.flatnonzero(((table.slots == EMPTY) & table.alive[:, :, None]).any(axis=(1, 2)))


def _fill_emptiest(table: Table, rows: Ints) -> None:
    """Clone the heaviest expert that the least loaded rank with an empty slot does not hold."""
    empty = (table.slots[rows] == EMPTY) & table.alive[rows][:, :, None]
    rank = np.where(empty.any(axis=2), table.rank_load[rows], np.inf).argmin(axis=1)
    slot = empty[np.arange(len(rows)), rank].argmax(axis=1)
    share = np.where(table.holds[rows, :, rank], -1.0, table.share(rows))
    table.put(rows, rank, slot, share.argmax(axis=1))


def improve(table: Table, target: Floats) -> None:
    """Swap, and clone where no swap helps, until no rank carries more than `target` [rows]."""
    clones = np.zeros(len(target), np.int64)
    rows = table.above(target)
    while len(rows):
        done = table.swap(rows)
        for n in np.flatnonzero(~done):
            row = int(rows[n])
            clones[row] += 1
            done[n] = clones[row] <= CLONES and table.clone(row)
        rows = rows[done]
        peak = table.rank_load[rows].max(axis=1)
        rows = rows[peak > target[rows] * (1 + SLACK)]


def polish(table: Table, goal: Floats) -> None:
    """A few swaps towards a `goal` [rows] that need not be reached."""
    rows = table.above(goal)
    for _ in range(POLISH):
        rows = rows[table.swap(rows)]
        rows = rows[table.rank_load[rows].max(axis=1) > goal[rows]]


def search(table: Table, before: Table, target: Floats) -> None:
    """Other starts for the rows that ended above `target` [rows]; the best end replaces theirs.

    Of those within the target the one with the fewest moves from `before`, else the least loaded.
    """
    rows = table.above(target)
    for at in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[at : at + ROWS_AT_ONCE]
        starts = _starts(table, before, some)
        tries = len(starts) // len(some)
        tiled = np.tile(some, tries)
        tried = Table(table.load[tiled], table.alive[tiled], starts)
        improve(tried, target[tiled])
        excess = np.maximum(tried.peak() / target[tiled], 1 + SLACK)
        moves = (tried.holds & ~before.holds[tiled]).sum(axis=(1, 2))
        order = np.lexsort((moves, excess)).argsort().reshape(tries, len(some))
        best = order.argmin(axis=0) * len(some) + np.arange(len(some))
        better = tried.peak()[best] < table.peak()[some]
        table.take(some[better], tried, best[better])


def _starts(table: Table, before: Table, rows: Ints) -> Ints:
    """Slots to start from, one kind after the other [kinds * rows, ranks, slots].

    The greedy rule's deal, distinct, and to the letter but for twins; what stood before with the
    greedy rule's replicas; shaken ends.
    """
    load, alive, width = table.load[rows], table.alive[rows], table.slots.shape[2]
    living = alive.sum(axis=1)
    counts = replicate(load, living * width, living)
    untwinned = Table(load, alive, published_without_twins(load, alive, width))
    fill(untwinned, np.ones_like(counts))
    starts = [deal(load, counts, alive, width), untwinned.slots]
    if (before.slots[rows] != EMPTY).any():
        kept = Table(load, alive, before.slots[rows])
        fill(kept, counts)
        starts.append(kept.slots)
    # Seeded: equal calls give equal placements.
    source = np.random.default_rng(0)
    for shake in range(min(MOST_SHAKES, 2 + SHAKEN_SLOTS // alive.shape[1] // width)):
        shaken = Table(load, alive, table.slots[rows])
        for _ in range(1 + shake % 4):
            _shake(shaken, source)
        starts.append(shaken.slots)
    return np.concatenate(starts)


def _shake(table: Table, source: np.random.Generator) -> None:
    """Replace one replica that is not the last one by any expert that its rank does not hold."""
    rows = np.arange(len(table.slots))
    flat = table.slots.reshape(len(rows), -1)
    counts = np.take_along_axis(table.counts, np.maximum(flat, 0), axis=1)
    drawn = np.where((flat != EMPTY) & (counts > 1), source.random(flat.shape), -1.0)
    place = drawn.argmax(axis=1)
    rank, slot = np.divmod(place, table.slots.shape[2])
    fresh = np.where(table.holds[rows, :, rank], -1.0, source.random(table.load.shape))
    expert = fresh.argmax(axis=1)
    good = (drawn[rows, place] >= 0) & (fresh[rows, expert] >= 0)
    table.put(rows[good], rank[good], slot[good], expert[good])
