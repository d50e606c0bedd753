"""Placement of experts on ranks (EPLB): replicas of what is busy, stable, without dead ranks.

    placement = place(load, ranks=320, slots=1)
    placement = place(later, 320, 1, previous=placement, dead={17})   # few moves: placement.moved

Two policies. *Global*: any expert on any rank. *Hierarchical*: experts come in groups, the gate
picks groups first, and a group stays within one node, so that a token's traffic stays there too.
No rank holds an expert twice, and in every layer the most loaded rank aims at carrying no more than
under the published greedy rule (`placement_greedy`), which reshuffles everything at every call.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from silva.control.placement_greedy import deal, published_peak, replicate
from silva.control.placement_repair import fill, improve, needed, polish, search
from silva.control.placement_table import EMPTY, SLACK, Bools, Floats, Ints, Table
from silva.errors import ConfigError

GOAL = 1.001
"""A new placement stops improving within this ratio of the most loaded rank to the mean."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Which expert is where: `slots` [layers, ranks, slots] of experts, or -1 for an empty slot.

    An expert's load is shared evenly by its replicas. An expert keeps its slot for as long as its
    rank keeps it.
    """

    slots: Ints
    experts: int
    moved: int = 0
    """Experts that ranks have to load which they did not hold in the placement before; 0 for the
    first placement of all."""

    @property
    def replicas(self) -> Ints:
        """Ranks that hold each expert [layers, experts]."""
        return self.holds().sum(axis=2)

    def holds(self) -> Bools:
        """Whether a rank holds an expert [layers, experts, ranks]."""
        layers, ranks, _ = self.slots.shape
        holds = np.zeros((layers, self.experts, ranks), bool)
        layer, rank, slot = np.nonzero(self.slots != EMPTY)
        holds[layer, self.slots[layer, rank, slot], rank] = True
        return holds

    def ranks_of(self, layer: int, expert: int) -> tuple[int, ...]:
        """The ranks that hold an expert, in ascending order."""
        return tuple(int(r) for r in np.nonzero(self.slots[layer] == expert)[0])

    def rank_load(self, load: Floats) -> Floats:
        """What each rank carries [layers, ranks] under a load [layers, experts]."""
        share = np.asarray(load, float) / np.maximum(self.replicas, 1)
        return np.einsum("ler,le->lr", self.holds(), share)

    def balance(self, load: Floats) -> Floats:
        """The most loaded rank over the mean of the ranks in use, by layer; 1 is perfect."""
        carried = self.rank_load(load)
        used = (self.slots != EMPTY).any(axis=2).sum(axis=1)
        total = carried.sum(axis=1)
        return np.where(total > 0, carried.max(axis=1) * used / np.where(total > 0, total, 1), 1.0)


def place(
    load: Floats,
    ranks: int,
    slots: int,
    *,
    groups: int = 1,
    nodes: int = 1,
    previous: Placement | None = None,
    dead: Collection[int] = (),
    tolerance: float = 0.0,
) -> Placement:
    """Place experts of a `load` [layers, experts], any unit, on `ranks` of `slots` experts each.

    Rank r belongs to node ``r // (ranks / nodes)``, expert e to group ``e // (experts / groups)``.
    Hierarchical where the groups divide among the nodes and every node has room for its share with
    its dead ranks away, else global. `previous` may be of other ranks and slots, or of a time when
    others were dead; its experts and layers must be the same. `tolerance` is the share by which the
    most loaded rank may carry more than under the greedy rule; a placement within it is left alone.

    Equal arguments give equal placements. Raises ConfigError when the slots of the ranks that are
    alive are fewer than the experts, ValueError for arguments that make no sense.
    """
    weights = _checked(load, ranks, slots, groups, nodes, previous)
    layers, experts = weights.shape
    alive = np.ones(ranks, bool)
    alive[[r for r in dead if 0 <= r < ranks]] = False
    if alive.sum() * slots < experts:
        raise ConfigError(
            f"{experts} experts do not fit into {slots} slots on each of {alive.sum()} ranks",
            remedy="use more ranks, or more slots on each",
        )
    nodes = nodes if _hierarchical(experts, alive, slots, groups, nodes) else 1
    before = np.full((layers, ranks, min(slots, experts)), EMPTY, np.int64)
    if previous is not None:
        before = _carried_over(previous.slots, before.shape, alive)
    table = _solve(_Problem(weights, alive, groups, nodes), before, previous is None, 1 + tolerance)
    after = np.full((layers, ranks, slots), EMPTY, np.int64)
    after[:, :, : before.shape[2]] = _settled(table, before)
    placed = Placement(after, experts)
    if previous is None:
        return placed
    moved = placed.holds() & ~Placement(before, experts).holds()
    return Placement(after, experts, int(moved.sum()))


def _checked(
    load: Floats, ranks: int, slots: int, groups: int, nodes: int, previous: Placement | None
) -> Floats:
    """The load as floats, a layer without any as an even one. ValueError where sizes misfit."""
    weights = np.array(load, np.float64)
    if weights.ndim != 2 or not weights.size:
        raise ValueError(f"load has the shape {weights.shape}, not [layers, experts]")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("load must be finite and not negative")
    if min(ranks, slots, groups, nodes) < 1:
        raise ValueError("ranks, slots, groups and nodes must be at least 1")
    if ranks % nodes or weights.shape[1] % groups:
        raise ValueError(f"{ranks} ranks in {nodes} nodes, {weights.shape[1]} in {groups} groups")
    if previous is not None and (len(previous.slots), previous.experts) != weights.shape:
        raise ValueError("the placement before is of other layers or experts")
    weights[weights.sum(axis=1) == 0] = 1.0
    return weights


def _hierarchical(experts: int, alive: Bools, slots: int, groups: int, nodes: int) -> bool:
    room = alive.reshape(nodes, -1).sum(axis=1).min() * slots
    return nodes > 1 and groups % nodes == 0 and room * nodes >= experts


def _carried_over(slots: Ints, shape: tuple[int, int, int], alive: Bools) -> Ints:
    """The placement before in a table of another size: what has no place there is left out."""
    carried = np.full(shape, EMPTY, np.int64)
    ranks, width = min(shape[1], slots.shape[1]), min(shape[2], slots.shape[2])
    carried[:, :ranks, :width] = slots[:, :ranks, :width]
    carried[:, ~alive] = EMPTY
    return carried


class _Problem:
    """A load [layers, experts] to be spread over `nodes` of ranks, `alive` or not, in `groups`."""

    def __init__(self, load: Floats, alive: Bools, groups: int, nodes: int) -> None:
        self.load, self.groups, self.nodes = load, groups if nodes > 1 else 1, nodes
        self.layers, self.experts = load.shape
        self.alive = np.tile(alive.reshape(nodes, -1), (self.layers, 1))
        self.size = self.experts // self.groups
        self.group_load = load.reshape(self.layers, self.groups, self.size).sum(axis=2)

    def packed(self) -> Ints:
        """Groups on nodes by the greedy rule [layers, nodes, groups / nodes]."""
        ones, all_nodes = np.ones_like(self.group_load, np.int64), self._all_nodes()
        return deal(self.group_load, ones, all_nodes, self.groups // self.nodes)

    def kept(self, before: Ints) -> Ints:
        """Groups on the nodes where most of each was before; the rest where there is room."""
        table = Table(self.group_load, self._all_nodes(), self._homes(before))
        fill(table, np.ones_like(self.group_load, np.int64))
        return table.slots

    def swapped(self, before: Ints) -> Ints:
        """Those, with groups swapped until no node carries more than when they are packed anew."""
        table = Table(self.group_load, self._all_nodes(), self.kept(before))
        width = self.groups // self.nodes
        improve(table, published_peak(self.group_load, self._all_nodes(), width))
        return table.slots

    def only(self, layers: Ints) -> _Problem:
        """The same for some of the layers."""
        return _Problem(
            self.load[layers], self.alive[: self.nodes].ravel(), self.groups, self.nodes
        )

    def _all_nodes(self) -> Bools:
        return np.ones((self.layers, self.nodes), bool)

    def _homes(self, before: Ints) -> Ints:
        """The node that holds most of each group: groups [layers, nodes, ...], or EMPTY."""
        width = self.groups // self.nodes
        homes = np.full((self.layers, self.nodes, width), EMPTY, np.int64)
        layer, rank, slot = np.nonzero(before != EMPTY)
        votes = np.zeros((self.layers, self.groups, self.nodes), np.int64)
        node = rank // (before.shape[1] // self.nodes)
        np.add.at(votes, (layer, before[layer, rank, slot] // self.size, node), 1)
        for n in range(self.layers):
            # The strongest claims first, since a node has room for its share of groups only.
            for claim in np.argsort(-votes[n], axis=None, kind="stable"):
                group, at = divmod(int(claim), self.nodes)
                room = np.flatnonzero(homes[n, at] == EMPTY)
                if votes[n, group, at] and len(room) and not (homes[n] == group).any():
                    homes[n, at, room[0]] = group
        return homes

    def members(self, packed: Ints) -> Ints:
        """Experts of each node, ascending [layers, nodes, experts / nodes]."""
        first = np.sort(packed, axis=2)[..., None] * self.size
        return (first + np.arange(self.size)).reshape(self.layers, self.nodes, -1)

    def weights(self, members: Ints) -> Floats:
        """The load by node and place among its members [layers * nodes, experts / nodes]."""
        load = np.take_along_axis(self.load[:, None], members, axis=2)
        return load.reshape(self.layers * self.nodes, -1)

    def target(self, slots: int) -> Floats:
        """What the published rule's most loaded rank carries in a row's layer [layers * nodes]."""
        weights = self.weights(self.members(self.packed()))
        peak = published_peak(weights, self.alive, min(slots, weights.shape[1]))
        return np.repeat(peak.reshape(self.layers, self.nodes).max(axis=1), self.nodes)


def _solve(problem: _Problem, before: Ints, anew: bool, tolerance: float) -> Ints:
    """Slots [layers, ranks, slots] that keep what they can of those before.

    Moving a group moves all its experts: it is tried only in layers that miss the target without.
    """
    target = problem.target(before.shape[2]) * tolerance
    packings = [_Problem.kept, _Problem.swapped, lambda some, _: some.packed()]
    found, peaks = before.copy(), np.full(problem.layers, np.inf)
    layers = np.arange(problem.layers)
    for packing in packings[-1:] if anew or problem.nodes == 1 else packings:
        some, stood = problem.only(layers), before[layers]
        members = some.members(packing(some, stood))
        rows = (layers[:, None] * problem.nodes + np.arange(problem.nodes)).ravel()
        table = _solve_within(some, members, stood, target[rows], anew)
        peak = table.peak().reshape(len(layers), problem.nodes).max(axis=1)
        better = peak < peaks[layers]
        named = _named(table.slots, members, stood.shape)
        found[layers[better]], peaks[layers[better]] = named[better], peak[better]
        goal = target.reshape(problem.layers, problem.nodes)[layers, 0]
        layers = layers[peaks[layers] > goal * (1 + SLACK)]
        if not len(layers):
            break
    return found


def _solve_within(
    problem: _Problem, members: Ints, before: Ints, target: Floats, anew: bool
) -> Table:
    """The table with the nodes' `members` given, aiming at `target` [layers * nodes]."""
    weights, alive = problem.weights(members), problem.alive
    width = min(before.shape[2], weights.shape[1])
    stood = Table(weights, alive, _localised(before, members, alive.shape[1])[:, :, :width])
    most = alive.sum(axis=1)
    if anew:
        counts = replicate(weights, most * width, most)
        table = Table(weights, alive, deal(weights, counts, alive, width))
        polish(table, np.minimum(target, weights.sum(axis=1) / most * GOAL))
    else:
        table = Table(weights, alive, stood.slots)
        fill(table, needed(weights, target, most))
    improve(table, target)
    if width > 1:
        # With one slot a rank, replicas decide everything, and those are as they should be.
        search(table, stood, target)
    return table


def _named(local: Ints, members: Ints, shape: tuple[int, ...]) -> Ints:
    """Experts by their numbers, from their places among the members of their nodes."""
    rows, ranks, width = local.shape
    named = np.full((rows, ranks, shape[2]), EMPTY, np.int64)
    flat = np.maximum(local, 0).reshape(rows, -1)
    found = np.take_along_axis(members.reshape(rows, -1), flat, axis=1).reshape(local.shape)
    named[:, :, :width] = np.where(local == EMPTY, EMPTY, found)
    return named.reshape(shape)


def _localised(before: Ints, members: Ints, ranks: int) -> Ints:
    """Experts by their place among their node's members; EMPTY for those of another node."""
    layers, nodes, share = members.shape
    places = np.full((layers, nodes, share * nodes + 1), EMPTY, np.int64)
    np.put_along_axis(places, members, np.arange(share)[None, None], axis=2)
    held = before.reshape(layers, nodes, -1)
    local = np.take_along_axis(places, np.where(held == EMPTY, share * nodes, held), axis=2)
    # What is left of a rank moves to the front: a node's experts may be fewer than the slots.
    local = local.reshape(layers * nodes, ranks, before.shape[2])
    order = np.argsort(local == EMPTY, axis=2, kind="stable")
    return np.take_along_axis(local, order, axis=2)


def _settled(after: Ints, before: Ints) -> Ints:
    """The same experts on the same ranks, those that were there before in the slots they had."""
    kept = (after[..., :, None] == before[..., None, :]) & (after[..., :, None] != EMPTY)
    settled = np.where(kept.any(axis=2), before, EMPTY)
    new = np.where(kept.any(axis=3), EMPTY, after)
    new = np.take_along_axis(new, np.argsort(new == EMPTY, axis=2, kind="stable"), axis=2)
    free = settled == EMPTY
    turn = np.maximum(free.cumsum(axis=2) - 1, 0)
    return np.where(free, np.take_along_axis(new, turn, axis=2), settled)
