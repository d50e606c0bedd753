"""From one placement to the next while steps go on: layer by layer, wave by wave.

In a wave some ranks load experts into buffers beside their slots, in the background; when all have
done so, all switch together between two steps. After each wave every expert is somewhere, so steps
never wait for a rebalancing, and one that is given up halfway leaves a placement that works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from silva.control.placement import Placement
from silva.control.placement_table import EMPTY, Floats, Ints


@dataclass(frozen=True)
class Move:
    """`rank` loads `expert` of `layer`, to stand in `slot` from the end of the wave on."""

    layer: int
    rank: int
    slot: int
    expert: int
    source: int | None
    """The rank to copy it from, as it stands before the wave; None: no rank has it, so read the
    model's files."""


@dataclass(frozen=True)
class LayerPlan:
    """What changes in one layer, wave after wave."""

    layer: int
    waves: tuple[tuple[Move, ...], ...]

    @property
    def moves(self) -> int:
        """Experts that are loaded, of all waves."""
        return sum(len(wave) for wave in self.waves)

    @property
    def buffers(self) -> int:
        """Experts that one rank receives in one wave, at most: what it needs room for."""
        return max(max(Counter(m.rank for m in wave).values()) for wave in self.waves)


def plan(
    before: Placement, after: Placement, load: Floats | None = None, buffers: int = 1
) -> tuple[LayerPlan, ...]:
    """The moves that lead from one placement to the next; layers without any are left out.

    `buffers` is how many experts a rank may receive in one wave. More are used only where experts
    with a single replica change places in a ring that so few cannot break. Ranks that `after`
    leaves empty are gone: nothing is read from them. With a `load` [layers, experts] the layers
    come first in which a move takes most load off the most loaded rank; those that lost an expert
    come before all others.
    """
    if before.slots.shape != after.slots.shape or buffers < 1:
        raise ValueError("both placements must be of the same layers, ranks and slots")
    old = np.where(after.slots == EMPTY, EMPTY, before.slots)
    plans = [
        LayerPlan(layer, _waves(layer, old[layer], after.slots[layer], buffers))
        for layer in np.flatnonzero((old != after.slots).any(axis=(1, 2))).tolist()
    ]
    start = Placement(old, before.experts)
    lost = (start.replicas == 0).any(axis=1)
    gain = np.zeros(len(old))
    if load is not None:
        gain = start.rank_load(load).max(axis=1) - after.rank_load(load).max(axis=1)
    return tuple(sorted(plans, key=lambda p: (not lost[p.layer], -gain[p.layer] / p.moves)))


def apply(placement: Placement, wave: Sequence[Move]) -> Placement:
    """The placement after one wave."""
    slots = placement.slots.copy()
    for move in wave:
        slots[move.layer, move.rank, move.slot] = move.expert
    return Placement(slots, placement.experts, len(wave))


def _waves(layer: int, old: Ints, new: Ints, buffers: int) -> tuple[tuple[Move, ...], ...]:
    """Moves of one layer; old and new [ranks, slots]."""
    now = old.copy()
    pending = [(int(r), int(s)) for r, s in np.argwhere(old != new)]
    waves = []
    while pending:
        there = {int(e) for e in now.flat}
        # Experts that are nowhere cannot wait.
        pending.sort(key=lambda at: int(new[at]) in there)
        wave = _covering(now, new, _first(pending, buffers)) or pending
        waves.append(
            tuple(
                Move(layer, r, s, int(new[r, s]), _source(now, int(new[r, s]), r)) for r, s in wave
            )
        )
        for at in wave:
            now[at] = new[at]
        pending = [at for at in pending if at not in set(wave)]
    return tuple(waves)


def _first(pending: list[tuple[int, int]], buffers: int) -> list[tuple[int, int]]:
    """The first moves of each rank, as many as it has buffers."""
    used: Counter[int] = Counter()
    chosen = []
    for rank, slot in pending:
        if used[rank] < buffers:
            used[rank] += 1
            chosen.append((rank, slot))
    return chosen


def _covering(now: Ints, new: Ints, wave: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The moves of a wave without those that would leave an expert without any replica."""
    while True:
        counts: Counter[int] = Counter(now.ravel().tolist())
        counts.update(int(new[at]) for at in wave)
        counts.subtract(int(now[at]) for at in wave)
        # EMPTY may run out: it is no expert.
        kept = [at for at in wave if now[at] == EMPTY or counts[int(now[at])] > 0]
        if len(kept) == len(wave):
            return wave
        wave = kept


def _source(now: Ints, expert: int, rank: int) -> int | None:
    """A rank that holds the expert, the nearest by number: a node's ranks are neighbours."""
    holders = np.nonzero(now == expert)[0]
    if not len(holders):
        return None
    return int(holders[np.abs(holders - rank).argmin()])
