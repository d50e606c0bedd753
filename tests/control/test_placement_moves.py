"""Every wave of a plan leaves a placement that works, and the last one leaves the new one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.control.placement import Placement, place
from silva.control.placement_moves import apply, plan


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 3), st.booleans())
def test_every_wave_covers_every_expert(seed: int, buffers: int, dead: bool) -> None:
    source = np.random.default_rng(seed)
    load = source.lognormal(0, 1, (2, 12))
    before = place(load, 4, 4)
    later = load * source.lognormal(0, 0.5, load.shape)
    after = place(later, 4, 4, previous=before, dead={1} if dead else ())
    now = before
    if dead:
        slots = before.slots.copy()
        slots[:, 1] = -1
        now = Placement(slots, 12)
    there = now.replicas > 0
    plans = plan(before, after, later, buffers)
    assert sum(each.moves for each in plans) == after.moved
    for each in plans:
        for wave in each.waves:
            for move in wave:
                assert move.layer == each.layer
                holders = now.ranks_of(move.layer, move.expert)
                assert move.source in holders if holders else move.source is None
            now = apply(now, wave)
            assert (now.replicas > 0)[there].all()
    assert (now.slots == after.slots).all()


def test_two_sole_replicas_change_places_in_one_wave() -> None:
    before = Placement(np.array([[[0], [1]]]), 2)
    after = Placement(np.array([[[1], [0]]]), 2)
    (layer,) = plan(before, after)
    assert [len(wave) for wave in layer.waves] == [2]
    assert layer.buffers == 1


def test_a_ring_within_ranks_takes_more_buffers_than_asked_for() -> None:
    before = Placement(np.array([[[0, 1], [2, 3]]]), 4)
    after = Placement(np.array([[[2, 3], [0, 1]]]), 4)
    (layer,) = plan(before, after, buffers=1)
    assert layer.moves == 4
    assert layer.buffers <= 2


def test_the_layer_that_gains_most_comes_first_and_a_lost_expert_before_it() -> None:
    load = np.array([[1.0, 1, 1, 1], [20.0, 1, 1, 1], [1.0, 1, 1, 1]])
    flat = [[0, 1], [2, 3], [0, 1]]
    before = Placement(np.array([[[0, 1], [2, 3], [0, 1]], flat, flat]), 4)
    better = [[0, 1], [2, 3], [0, 2]]
    after = Placement(np.array([better, [[0, 1], [0, 3], [0, 2]], better]), 4)
    assert plan(before, after, load)[0].layer == 1
    lost = Placement(np.array([[[0, 1], [2, 0], [0, 1]], flat, flat]), 4)
    first = plan(lost, after, load)[0]
    assert first.layer == 0
    assert first.waves[0][0].expert == 3
    assert first.waves[0][0].source is None


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="same layers"):
        plan(place(np.ones((1, 4)), 2, 2), place(np.ones((1, 4)), 4, 2))
