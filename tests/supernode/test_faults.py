"""Failures of dies, nodes, switches and cache instances."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from silva.errors import ConfigError
from silva.supernode.balance import with_popularity
from silva.supernode.cluster import Cluster, Failure
from silva.supernode.cost.links import pool_read_s
from silva.supernode.decode import decode_step
from silva.supernode.faults import Faults
from silva.supernode.fleet import make_fleet
from silva.supernode.generate import Shape, generate
from silva.supernode.modelcache import model_cache
from silva.supernode.records import Records
from silva.supernode.simulate import simulate
from silva.supernode.system import load_system
from silva.supernode.workload import DecodeLoad, ModelLoad

sys.path.insert(0, str(Path(__file__).parent))
from small import small_system

SYSTEM = small_system()
SPLIT = Cluster(prefill=2, decode=2, batch_per_npu=16, mtp=False)
CACHED = replace(SPLIT, cache_gb=1.0)
TRAFFIC = generate(Shape(rate=6.0, seconds=4.0, prompt=1000.0, output=100.0))


def lost(failure: Failure, cluster: Cluster = CACHED) -> tuple[list[str], tuple[int, ...]]:
    fleet = make_fleet(cluster, SYSTEM, TRAFFIC)
    (loss,) = Faults(cluster, SYSTEM, fleet, TRAFFIC).losses([failure])
    return [engine.name for engine in loss.engines], loss.caches


def answered(records: Records) -> Records:
    assert not np.isnan(records.finished_s).any()
    assert (records.first_token_s <= records.finished_s).all()
    return records


def test_a_die_takes_its_instance_and_a_node_all_that_stand_on_it() -> None:
    # Instances of 8 dies: prefill 0 and 1 on the 16 dies of node 0, decode 0 and 1 on node 1.
    assert SYSTEM.machine.dies_per_node == 16
    assert lost(Failure("die", 7)) == (["prefill-0"], ())
    assert lost(Failure("die", 8)) == (["prefill-1"], ())
    assert lost(Failure("die", 31)) == (["decode-1"], ())
    assert lost(Failure("node", 0)) == (["prefill-0", "prefill-1"], (0,))
    assert lost(Failure("node", 1)) == (["decode-0", "decode-1"], (1,))
    assert lost(Failure("node", 3)) == ([], (3,))
    assert lost(Failure("node", 1), replace(CACHED, prefill=1, caches=1))[0] == ["decode-1"]
    assert lost(Failure("cache", 2)) == ([], (2,))


@pytest.mark.parametrize(
    ("role", "number", "match"),
    [
        ("die", 32, "there are 32 dies in use"),
        ("node", 4, "there are 4 nodes in use"),
        ("switch", 7, "there are 7 switch planes"),
        ("cache", 4, "there are 4 cache instances"),
    ],
)
def test_what_is_not_there_cannot_fail(role: str, number: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        lost(Failure(role, number))


@pytest.mark.parametrize("failure", [Failure("node", 1, 1.0, 2.0), Failure("die", 17, 1.0, 2.0)])
def test_requests_of_a_lost_node_begin_again(failure: Failure) -> None:
    records = answered(simulate(SPLIT, TRAFFIC, (failure,), SYSTEM))
    assert records.attempts.max() == 2


def test_without_prefill_prompts_wait_until_the_node_is_back() -> None:
    records = answered(simulate(SPLIT, TRAFFIC, (Failure("node", 0, 1.0, 2.0),), SYSTEM))
    assert records.ttft_s.max() > 1.5
    assert records.attempts.min() == 1


@pytest.mark.parametrize(
    ("policy", "failure", "warm"),
    [
        ("ems", Failure("node", 1), True),
        ("local", Failure("die", 17), True),
        ("local", Failure("node", 1), False),
        ("none", Failure("decode", 0), False),
    ],
)
def test_what_comes_back_loads_its_model(policy: str, failure: Failure, warm: bool) -> None:
    cluster = replace(SPLIT, model_cache=policy)
    fleet = make_fleet(cluster, SYSTEM, TRAFFIC)
    faults = Faults(cluster, SYSTEM, fleet, TRAFFIC)
    (loss,) = faults.losses([failure])
    asked = ModelLoad(policy, instances=len(loss.engines))
    found = model_cache(SYSTEM, asked)
    assert faults.load_s(loss) == (found.warm_s if warm else found.cold_s)


def test_only_instances_of_one_failure_share_the_object_store() -> None:
    """Two that are lost together, and the same two by failures of their own at one time."""
    cluster = replace(SPLIT, model_cache="none")
    faults = Faults(cluster, SYSTEM, make_fleet(cluster, SYSTEM, TRAFFIC), TRAFFIC)
    alone = [Failure("decode", number, 1.0, 2.0) for number in (0, 1)]
    together, *each = faults.losses([Failure("node", 1, 1.0, 2.0), *alone])
    assert [faults.load_s(loss) * 2 for loss in each] == pytest.approx(
        [faults.load_s(together)] * 2
    )


def test_a_model_that_nobody_keeps_makes_a_failure_longer() -> None:
    failure = Failure("prefill", 0, 1.0, 1.0)
    one = replace(SPLIT, prefill=1)
    waits = [
        answered(simulate(replace(one, model_cache=policy), TRAFFIC, (failure,), SYSTEM)).ttft_s
        for policy in ("ems", "none")
    ]
    assert waits[0].max() < waits[1].max()


def test_a_lost_switch_slows_every_step_until_it_is_back() -> None:
    calm = simulate(SPLIT, TRAFFIC, (), SYSTEM)
    failures = tuple(Failure("switch", plane, 0.0, 1e6) for plane in range(6))
    slow = answered(simulate(SPLIT, TRAFFIC, failures, SYSTEM))
    assert slow.attempts.max() == 1
    # A dense model on 8 dies of one node talks inside it only.
    assert slow.finished_s.tolist() == calm.finished_s.tolist()
    load = DecodeLoad(batch_per_npu=96.0)
    experts = load_system("cloudmatrix-infer")
    steps = [decode_step(replace(experts, lost_planes=n), load).tpot_s for n in (0, 1, 3, 6)]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    machine = replace(experts, lost_planes=6).machine
    assert pool_read_s(machine, 4096, 70e3, "ub") > pool_read_s(experts.machine, 4096, 70e3, "ub")


def test_popular_experts_do_not_bring_a_lost_switch_back() -> None:
    experts = load_system("cloudmatrix-infer")
    load = DecodeLoad(batch_per_npu=96.0)
    whole, slow = (
        decode_step(with_popularity(replace(experts, lost_planes=n), 1.0, decode=True), load).tpot_s
        for n in (0, 3)
    )
    assert slow > whole
    with pytest.raises(ConfigError, match="planes of switches are lost"):
        _ = replace(experts, lost_planes=7).machine


@pytest.mark.parametrize("failure", ["cache", "node"])
def test_without_a_cache_no_instance_of_it_can_fail(failure: str) -> None:
    split = replace(SPLIT, cache_gb=0.0, caches=12)
    with pytest.raises(ConfigError, match="there are"):
        simulate(split, TRAFFIC, (Failure(failure, 11, 1.0, 1.0),), SYSTEM)


def test_times_are_those_of_the_whole_machine_again_when_the_switch_is_back() -> None:
    fleet = make_fleet(SPLIT, SYSTEM, TRAFFIC)
    faults = Faults(SPLIT, SYSTEM, fleet, TRAFFIC)
    whole = faults.times(fleet.decode[0])
    assert faults.lose_switch(3)
    assert not faults.lose_switch(3)
    assert faults.system.machine.scale_up.read_gbps < SYSTEM.machine.scale_up.read_gbps
    assert not faults.restore_switch(3)
    assert faults.restore_switch(3)
    assert faults.times(fleet.decode[0]) is whole


@pytest.mark.parametrize("gap_s", [0.0, 0.1, 1.0])
def test_a_machine_without_any_switch_is_refused(gap_s: float) -> None:
    """Also where planes are lost one after the other, but none is back before the last."""
    failures = tuple(Failure("switch", plane, plane * gap_s, 6.0 * gap_s) for plane in range(7))
    with pytest.raises(ConfigError, match="all 7 planes"):
        simulate(SPLIT, TRAFFIC, failures, SYSTEM)


def test_planes_that_fail_in_turn_leave_the_others() -> None:
    calm = simulate(SPLIT, TRAFFIC, (), SYSTEM)
    in_turn = tuple(Failure("switch", plane, plane * 0.5, 0.4) for plane in range(7))
    of_one = tuple(Failure("switch", 3, time_s, 2.0) for time_s in np.arange(0.0, 3.5, 0.25))
    for failures in (in_turn, of_one):
        records = answered(simulate(SPLIT, TRAFFIC, failures, SYSTEM))
        # A dense model on 8 dies of one node talks inside it only.
        assert records.finished_s.tolist() == pytest.approx(calm.finished_s.tolist(), rel=1e-3)


def test_a_lost_cache_instance_costs_hits() -> None:
    shape = Shape(kind="sessions", rate=4.0, seconds=20.0, think_s=2.0)
    traffic = generate(shape, seed=2)
    cluster = replace(SPLIT, cache_gb=1000.0, caches=2)
    calm = answered(simulate(cluster, traffic, (), SYSTEM))
    failures = (Failure("cache", 0, 5.0, 3.0), Failure("cache", 0, 6.0, 10.0))
    records = answered(simulate(cluster, traffic, failures, SYSTEM))
    assert 0 < records.cached_tokens.sum() < calm.cached_tokens.sum()
    every = tuple(Failure("cache", number, 0.0, 1e3) for number in range(2))
    # What instances keep of their own is found even so.
    alone = simulate(replace(cluster, cache_gb=0.0), traffic, (), SYSTEM)
    without = answered(simulate(cluster, traffic, every, SYSTEM))
    assert without.cached_tokens.sum() == pytest.approx(alone.cached_tokens.sum(), rel=0.2)
