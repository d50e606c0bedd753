"""Placement: at least as even as the published rule, and it moves few experts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.control.placement import Placement, place
from silva.errors import ConfigError


def pack(weights: list[float], bins: int) -> list[int]:
    """The published rule: the heaviest first, to the lightest bin with room; equal counts."""
    totals, filled, chosen = [0.0] * bins, [0] * bins, [0] * len(weights)
    for item in sorted(range(len(weights)), key=lambda n: -weights[n]):
        roomy = [b for b in range(bins) if filled[b] < len(weights) // bins]
        chosen[item] = min(roomy, key=lambda b: totals[b])
        totals[chosen[item]] += weights[item]
        filled[chosen[item]] += 1
    return chosen


def published(
    load: list[float], ranks: int, slots: int, groups: int, nodes: int
) -> tuple[float, set[tuple[int, int]]]:
    """EPLB by its description: groups to nodes, clones inside a node, replicas to ranks.

    Max over mean, and the pairs (rank, expert).
    """
    size, per_node = len(load) // groups, ranks // nodes
    home = pack([sum(load[g * size : (g + 1) * size]) for g in range(groups)], nodes)
    carried, pairs = [0.0] * ranks, set()
    for node in range(nodes):
        experts = [e for e in range(len(load)) if home[e // size] == node]
        counts = dict.fromkeys(experts, 1)
        replicas = list(experts)
        while len(replicas) < per_node * slots:
            heaviest = max(experts, key=lambda e: load[e] / counts[e])
            counts[heaviest] += 1
            replicas.append(heaviest)
        homes = pack([load[e] / counts[e] for e in replicas], per_node)
        for expert, rank in zip(replicas, homes, strict=True):
            carried[node * per_node + rank] += load[expert] / counts[expert]
            pairs.add((node * per_node + rank, expert))
    return max(carried) / (sum(load) / ranks), pairs


def random_case(source: np.random.Generator, fewest: int) -> tuple[int, int, np.ndarray]:
    """Ranks, slots and a skewed load [2, experts]."""
    experts = int(source.choice([16, 64]))
    ranks = int(source.choice([fewest, 8, 16]))
    slots = -(-int(experts * source.choice([1, 1.125, 1.5])) // ranks)
    if source.random() < 0.5:
        return ranks, slots, source.lognormal(0, source.choice([0.5, 1, 1.5]), (2, experts))
    zipf = 1 / np.arange(1, experts + 1) ** source.uniform(0.4, 1.2)
    return ranks, slots, source.permuted(np.tile(zipf, (2, 1)), axis=1)


def distinct(placement: Placement) -> bool:
    """Whether no rank holds an expert twice, and every expert is somewhere."""
    in_order = np.sort(placement.slots, axis=2)
    twice = (in_order[:, :, 1:] == in_order[:, :, :-1]) & (in_order[:, :, 1:] >= 0)
    return not twice.any() and bool((placement.replicas >= 1).all())


@pytest.mark.parametrize(("cases", "groups", "nodes"), [(100, 1, 1), (30, 8, 2)])
def test_skewed_cases_are_as_even_as_under_the_published_rule_with_few_moves(
    cases: int, groups: int, nodes: int
) -> None:
    source = np.random.default_rng(7)
    moved = published_moved = 0
    evenness: list[float] = []
    for _ in range(cases):
        ranks, slots, load = random_case(source, 4 * nodes)
        placement, pairs = None, [set[tuple[int, int]]()] * 2
        for call in range(2):
            now = load * source.lognormal(0, 0.05, load.shape)
            placement = place(now, ranks, slots, groups=groups, nodes=nodes, previous=placement)
            assert distinct(placement)
            greedy = [published(list(row), ranks, slots, groups, nodes) for row in now]
            evenness += [
                found / theirs
                for found, (theirs, _) in zip(placement.balance(now), greedy, strict=True)
            ]
            if call:
                moved += placement.moved
                published_moved += sum(len(greedy[n][1] - pairs[n]) for n in range(2))
            pairs = [each for _, each in greedy]
    assert moved * 5 <= published_moved
    # The rule may put an expert on a rank twice, which in tiny problems is now and then finer.
    assert np.mean(evenness) < 1
    assert np.mean(np.array(evenness) <= 1 + 1e-6) > 0.99
    assert max(evenness) < 1.02


def test_the_same_load_moves_nothing() -> None:
    load = np.random.default_rng(0).lognormal(0, 1, (3, 64))
    first = place(load, 8, 9, groups=8, nodes=2)
    again = place(load, 8, 9, groups=8, nodes=2, previous=first)
    assert again.moved == 0
    assert (again.slots == first.slots).all()


def test_moves_are_counted_and_kept_experts_keep_their_slots() -> None:
    source = np.random.default_rng(1)
    load = source.lognormal(0, 1, (2, 64))
    first = place(load, 8, 9)
    second = place(load * source.lognormal(0, 0.3, load.shape), 8, 9, previous=first)
    assert second.moved == (second.holds() & ~first.holds()).sum() > 0
    assert second.moved == (second.slots != first.slots).sum()


def test_tolerance_saves_moves() -> None:
    source = np.random.default_rng(2)
    load = source.lognormal(0, 1, (4, 64))
    first = place(load, 8, 9)
    later = load * source.lognormal(0, 0.05, load.shape)
    strict, lax = (place(later, 8, 9, previous=first, tolerance=t) for t in (0, 0.1))
    assert lax.moved < strict.moved
    assert (lax.balance(later) <= strict.balance(later) * 1.1).all()


def test_hierarchical_keeps_a_group_within_a_node() -> None:
    load = np.random.default_rng(3).lognormal(0, 1, (2, 32))
    holds = place(load, 8, 5, groups=8, nodes=4).holds()
    by_group_and_node = holds.reshape(2, 8, 4, 4, 2).any(axis=(2, 4))
    assert (by_group_and_node.sum(axis=2) == 1).all()


def test_dead_ranks_are_excluded_and_come_back() -> None:
    load = np.random.default_rng(4).lognormal(0, 1, (3, 32))
    whole = place(load, 8, 6)
    without = place(load, 8, 6, previous=whole, dead={2, 5})
    assert distinct(without)
    assert (without.slots[:, [2, 5]] == -1).all()
    assert (without.slots[:, [0, 1, 3, 4, 6, 7]] >= 0).all()
    again = place(load, 8, 6, previous=without)
    assert (again.slots >= 0).all()
    assert distinct(again)


def test_ranks_and_slots_may_change() -> None:
    load = np.random.default_rng(5).lognormal(0, 1, (2, 32))
    small = place(load, 4, 9)
    large = place(load, 8, 6, previous=small)
    assert distinct(large)
    assert distinct(place(load, 4, 10, previous=large))


def test_a_rank_with_more_slots_than_experts_leaves_the_rest_empty() -> None:
    placement = place(np.ones((1, 4)), 2, 6)
    assert distinct(placement)
    assert (placement.replicas == 2).all()
    assert placement.balance(np.ones((1, 4)))[0] == 1


def test_a_layer_without_load_is_placed_evenly() -> None:
    placement = place(np.zeros((1, 8)), 4, 2)
    assert (placement.replicas == 1).all()


def test_too_few_slots_are_refused() -> None:
    with pytest.raises(ConfigError, match="16 experts do not fit into 4 slots on each of 3 ranks"):
        place(np.ones((1, 16)), 4, 4, dead={1})


@pytest.mark.parametrize(
    ("load", "arguments"),
    [
        (np.ones(8), {}),
        (np.full((1, 8), np.nan), {}),
        (-np.ones((1, 8)), {}),
        (np.ones((1, 8)), {"nodes": 3}),
        (np.ones((1, 8)), {"groups": 3}),
        (np.ones((1, 8)), {"groups": 0}),
        (np.ones((1, 8)), {"previous": Placement(np.zeros((2, 4, 2), np.int64), 8)}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(load: np.ndarray, arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"."):
        place(load, 4, 2, **arguments)


@settings(max_examples=20)
@given(st.data())
def test_any_history_of_loads_and_deaths_gives_a_whole_placement(data: st.DataObject) -> None:
    experts = data.draw(st.integers(1, 4)) * 4
    ranks = data.draw(st.sampled_from([2, 4, 6]))
    slots = data.draw(st.integers(-(-experts // ranks), experts + 1))
    groups, nodes = data.draw(st.sampled_from([(1, 1), (2, 2), (4, 2)]))
    previous = None
    for _ in range(3):
        load = np.array(
            [data.draw(st.lists(st.integers(0, 50), min_size=experts, max_size=experts))], float
        )
        dead = data.draw(st.sets(st.integers(0, ranks - 1), max_size=ranks - 1))
        if (ranks - len(dead)) * slots < experts:
            dead = set()
        previous = place(
            load, ranks, slots, groups=groups, nodes=nodes, previous=previous, dead=dead
        )
        assert distinct(previous)
        assert (previous.slots[:, sorted(dead)] == -1).all()
        alive = [r for r in range(ranks) if r not in dead]
        assert (
            (previous.slots[:, alive] >= 0).sum(axis=2) == min(slots, experts)
        ).all() or nodes > 1
