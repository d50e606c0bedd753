"""Instances change their roles when the traffic does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from silva.errors import ConfigError
from silva.supernode.cluster import Cluster, Failure
from silva.supernode.fleet import make_fleet
from silva.supernode.generate import Shape, generate
from silva.supernode.simulate import Simulation, simulate
from silva.supernode.traces import Traffic

sys.path.insert(0, str(Path(__file__).parent))
from small import small_system

SYSTEM = small_system()
CLUSTER = Cluster(prefill=1, decode=3, batch_per_npu=64, mtp=False, scale_window_s=1.0)
LONG = generate(Shape(rate=30.0, seconds=15.0, prompt=3000.0, output=20.0))


def run(traffic: Traffic) -> Simulation:
    fleet = make_fleet(CLUSTER, SYSTEM, traffic)
    simulation = Simulation(CLUSTER, SYSTEM, traffic, fleet)
    records = simulation.run()
    assert not np.isnan(records.finished_s).any()
    assert (records.attempts == 1).all()
    for engine in fleet.engines:
        assert engine.state.counts().blocks_used == 0
        assert engine.up or not fleet.takes(engine)
    prefill = sum(fleet.takes(engine) for engine in fleet.prefill)
    decode = sum(fleet.takes(engine) for engine in fleet.decode)
    assert 3 <= prefill + decode <= 4, "one at most drains"
    assert min(prefill, decode) >= 1
    return simulation


def test_long_prompts_draw_instances_to_prefill() -> None:
    moved = run(LONG)
    assert moved.records.moves[0][1].startswith("decode")
    assert moved.records.moves[0][2].startswith("prefill")
    still = simulate(replace(CLUSTER, scale_window_s=0.0), LONG, system=SYSTEM)
    assert moved.records.ttft_s.mean() < still.ttft_s.mean()


def test_memory_and_links_are_those_of_the_instances_there_are() -> None:
    """Each has a scheduler for either role, one of which works."""
    calm = generate(Shape(rate=6.0, seconds=8.0, prompt=1000.0, output=100.0))
    moving, still = (
        simulate(replace(CLUSTER, scale_window_s=window_s), calm, system=SYSTEM)
        for window_s in (1e5, 0.0)
    )
    assert moving.moves == []
    assert [each.kv_share for each in moving.samples] == [each.kv_share for each in still.samples]
    assert moving.links == still.links
    assert max(each.kv_share for each in still.samples) > 0


def test_roles_stay_where_both_have_little_to_do() -> None:
    calm = run(generate(Shape(rate=1.0, seconds=8.0, prompt=500.0, output=50.0)))
    assert calm.records.moves == []


def test_what_cannot_change_roles_is_refused() -> None:
    few = LONG.first(4)
    with pytest.raises(ConfigError, match="no roles to change"):
        simulate(replace(CLUSTER, prefill=0), few, system=SYSTEM)
    other = replace(SYSTEM, prefill=replace(SYSTEM.prefill, dies=16))
    with pytest.raises(ConfigError, match="an instance of 16 dies cannot take the place"):
        simulate(CLUSTER, few, system=other)
    with pytest.raises(ConfigError, match="not simulated together"):
        simulate(CLUSTER, few, (Failure("decode", 0),), SYSTEM)
