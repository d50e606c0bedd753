from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from silva.errors import ConfigError
from silva.supernode.fleet import decode_table
from silva.supernode.generate import Shape, generate
from silva.supernode.plan import Plan, Targets, _other_cache, make_plan, table

sys.path.insert(0, str(Path(__file__).parent))
from small import small_system

SYSTEM = small_system()
TRAFFIC = generate(Shape(rate=40.0, seconds=10.0, prompt=2048.0, output=200.0), seed=1)
TARGETS = Targets(ttft_s=1.0, tpot_s=0.05)


@pytest.fixture(scope="module")
def found() -> Plan:
    return make_plan(SYSTEM, TRAFFIC, TARGETS)


def test_the_best_plan_holds_and_nothing_cheaper_does(found: Plan) -> None:
    best = found.best
    assert best.holds
    assert best.ttft_s <= TARGETS.ttft_s
    assert best.tpot_s <= TARGETS.tpot_s
    assert all(trial.nodes >= best.nodes for trial in found.frontier)
    for role in ("prefill", "decode"):
        fewer = [t for n, t in found.neighbours.items() if n.startswith(f"one {role} fewer")]
        assert not any(trial.holds for trial in fewer)
        assert fewer or getattr(best.cluster, role) == 1


def test_more_never_does_less(found: Plan) -> None:
    for role in ("prefill", "decode"):
        more, lost = (
            next(t for n, t in found.neighbours.items() if n.startswith(start))
            for start in (f"one {role} more (+", f"a node of {role} lost for ")
        )
        assert more.holds
        assert more.goodput >= found.best.goodput * (1 - 1e-3)
        assert lost.goodput <= found.best.goodput * (1 + 1e-3)


def test_the_batch_leaves_of_the_target_what_the_server_leaves(found: Plan) -> None:
    best = found.best
    packages = best.system.decode.dies / best.system.machine.die.per_package
    times = decode_table(best.system, (best.cluster.mtp, best.cluster.acceptance), packages, None)
    length = TRAFFIC.mean_prompt + TRAFFIC.mean_output / 2
    batch = best.cluster.batch_per_npu * packages
    assert times.seconds(int(batch), int(batch * length), 0) <= 0.95 * TARGETS.tpot_s


def test_the_same_question_has_the_same_answer(found: Plan) -> None:
    assert make_plan(SYSTEM, TRAFFIC, TARGETS).as_plain() == found.as_plain()


def test_the_table_tells_it_all(found: Plan) -> None:
    text = table(found, TARGETS)
    assert found.best.name in text
    assert all(name in text for name in found.neighbours)
    assert f"binding: {found.best.binding}" in text
    json.dumps(found.as_plain())


def test_an_unreachable_target_says_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"the closest, .* has TTFT p99 .* TPOT p99"):
        make_plan(SYSTEM, TRAFFIC.first(40), Targets(ttft_s=1.0, tpot_s=1e-4))


def test_no_plan_is_larger_than_the_machine() -> None:
    machine = SYSTEM.machine
    few = replace(SYSTEM)
    few.__dict__["machine"] = replace(machine, supernode=replace(machine.supernode, nodes=2))
    crowd = replace(TRAFFIC, arrival_s=TRAFFIC.arrival_s / 1e7)
    with pytest.raises(ConfigError, match=r"within 2 nodes holds .*the closest, "):
        make_plan(few, crowd, TARGETS)


def test_a_model_that_fits_nowhere_says_what_would() -> None:
    large = replace(SYSTEM, model="deepseek-r1", prefill=replace(SYSTEM.prefill, tensor=1))
    with pytest.raises(ConfigError, match="would do"):
        make_plan(large, TRAFFIC, TARGETS)


def test_no_traffic_no_plan() -> None:
    with pytest.raises(ConfigError, match="too little traffic"):
        make_plan(SYSTEM, TRAFFIC.first(1), TARGETS)


def test_more_hardware_never_lowers_the_best_plans_goodput() -> None:
    traffic, goodput = TRAFFIC.first(60), []
    for nodes in (1, 2, 4, 48):
        system = replace(SYSTEM)
        machine = SYSTEM.machine
        supernode = replace(machine.supernode, nodes=nodes)
        system.__dict__["machine"] = replace(machine, supernode=supernode)
        try:
            goodput.append(make_plan(system, traffic, TARGETS).best.goodput)
        except ConfigError:
            goodput.append(0.0)
    assert goodput == sorted(goodput)
    assert goodput[-1] > 0


def test_caches_of_several_sizes_are_tried_where_prompts_share_something() -> None:
    shape = Shape(kind="sessions", rate=6.0, seconds=6.0, prompt=1000.0, output=20.0, think_s=1.0)
    traffic = generate(shape, seed=2)
    targets = Targets(ttft_s=3.0, tpot_s=0.1)
    best = make_plan(SYSTEM, traffic, targets).best
    cluster = replace(best.cluster, cache_gb=0.0)
    sizes = [start.cache_gb for _, start in _other_cache(replace(best, cluster=cluster), traffic)]
    assert len(sizes) == 3
    assert sizes[-1] <= best.nodes * SYSTEM.machine.node.dram_gb
    assert best.cluster.cache_gb in (0.0, *sizes)
    assert _other_cache(best, TRAFFIC) == []
