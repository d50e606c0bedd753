from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.supernode.decode import ATTENTION, DIE, EXPERTS, NETWORK, decode_step, stream_seconds
from silva.supernode.explain import explain_decode
from silva.supernode.schedule import busy_s
from silva.supernode.system import System, load_system
from silva.supernode.workload import DecodeLoad

SYSTEM = load_system("cloudmatrix-infer")
LOADS = st.builds(
    DecodeLoad,
    batch_per_npu=st.floats(1, 256),
    kv_len=st.floats(128, 32_768),
    output_len=st.floats(0, 4096),
    mtp=st.booleans(),
    microbatch=st.booleans(),
)
STEPS = settings(max_examples=12)


def with_machine(system: System, part: str, **factors: float) -> System:
    """The system on a machine whose figures of one part are so many times larger."""
    hw = system.machine
    old = getattr(hw, part)
    new = replace(old, **{name: getattr(old, name) * factor for name, factor in factors.items()})
    changed = replace(system)
    changed.__dict__["machine"] = replace(hw, **{part: new})
    return changed


@STEPS
@given(LOADS)
def test_the_same_load_takes_the_same_time(load: DecodeLoad) -> None:
    assert decode_step(SYSTEM, load) == decode_step(SYSTEM, load)


@STEPS
@given(LOADS, st.floats(1, 4))
def test_more_requests_take_longer(load: DecodeLoad, factor: float) -> None:
    more = replace(load, batch_per_npu=load.batch_per_npu * factor)
    assert decode_step(SYSTEM, load).iteration_s <= decode_step(SYSTEM, more).iteration_s


@STEPS
@given(LOADS, st.floats(1, 4))
def test_longer_requests_take_longer(load: DecodeLoad, factor: float) -> None:
    longer = replace(load, kv_len=load.kv_len * factor)
    assert decode_step(SYSTEM, load).iteration_s <= decode_step(SYSTEM, longer).iteration_s


@STEPS
@given(
    LOADS,
    st.sampled_from(
        [
            ("exchange", ("gbps", "node_gbps")),
            ("die", ("memory_gbps",)),
            ("die", ("bf16_tflops", "low_precision_tops")),
        ]
    ),
    st.floats(1, 4),
    st.sampled_from(["cloudmatrix-infer", "deepseek-h800", "xdeepserve"]),
)
def test_a_better_machine_is_never_slower(
    load: DecodeLoad, what: tuple[str, tuple[str, ...]], factor: float, name: str
) -> None:
    system = load_system(name)
    part, fields = what
    better = with_machine(system, part, **dict.fromkeys(fields, factor))
    before, after = (decode_step(s, load).iteration_s for s in (system, better))
    assert after <= before * (1 + 1e-9)


def test_the_split_follows_the_length_of_the_requests() -> None:
    short, long = (
        decode_step(SYSTEM, DecodeLoad(kv_len=length)).cores for length in (512.0, 8192.0)
    )
    assert 0 < short < long < SYSTEM.machine.die.matrix_cores


def test_a_balanced_split_is_no_slower_than_any_fixed_one() -> None:
    best = decode_step(SYSTEM, DecodeLoad()).layer_s
    for cores in range(8, 24, 4):
        setup = replace(SYSTEM.decode, balance_cores=0, attention_cores=cores)
        fixed = decode_step(replace(SYSTEM, decode=setup), DecodeLoad())
        assert fixed.cores == cores
        assert best <= fixed.layer_s * (1 + 1e-9)


def test_microbatches_gain_at_large_batches_and_lose_at_small_ones() -> None:
    def gain(batch: float) -> float:
        rates = [
            decode_step(SYSTEM, DecodeLoad(batch_per_npu=batch, microbatch=on)).tokens_per_s
            for on in (True, False)
        ]
        return rates[0] / rates[1]

    gains = [gain(batch) for batch in (8, 32, 64, 96, 128)]
    assert gains == sorted(gains)
    assert gains[1] < 1 < gains[2]


def test_both_streams_are_busy_nearly_all_the_time() -> None:
    step = decode_step(SYSTEM, DecodeLoad())
    busy = busy_s(step.events)
    assert busy.keys() == {ATTENTION, EXPERTS}
    assert all(seconds > 0.9 * step.parts["layers"] for seconds in busy.values())
    assert max(stream_seconds(step.layer)) * 2 == pytest.approx(step.layer_s, rel=1e-6)


def test_drafts_are_paid_for_and_pay() -> None:
    with_drafts, without = (decode_step(SYSTEM, DecodeLoad(mtp=on)) for on in (True, False))
    assert with_drafts.layer_s > without.layer_s
    assert with_drafts.tokens_per_s > without.tokens_per_s
    assert (with_drafts.tokens, without.tokens) == (1.7, 1.0)
    none = decode_step(SYSTEM, DecodeLoad(acceptance=0.0))
    assert none.tokens_per_s < without.tokens_per_s


def test_graphs_that_the_cpu_launches_leave_gaps() -> None:
    plain = replace(SYSTEM, decode=replace(SYSTEM.decode, pipelined_launch=0))
    for mtp, graphs in ((True, 2), (False, 1)):
        load = DecodeLoad(mtp=mtp)
        lost = decode_step(plain, load).iteration_s - decode_step(SYSTEM, load).iteration_s
        assert lost == pytest.approx(graphs * 0.7e-3)


def test_compute_and_network_overlap_on_gpus() -> None:
    gpus = load_system("deepseek-h800")
    load = DecodeLoad(batch_per_npu=128, mtp=False)
    step = decode_step(gpus, load)
    busy = busy_s(step.events)
    assert busy.keys() == {DIE, NETWORK}
    assert step.parts["layers"] < 0.85 * sum(busy.values())
    assert step.iteration_s < decode_step(gpus, replace(load, microbatch=False)).iteration_s


@pytest.mark.parametrize("dies", [8, 32, 144, 320])
def test_any_degree_of_expert_parallelism(dies: int) -> None:
    shared = 32 if dies > 288 else 0
    setup = replace(SYSTEM.decode, dies=dies, shared_dies=shared)
    assert decode_step(replace(SYSTEM, decode=setup), DecodeLoad()).iteration_s > 0


def test_a_dense_model_on_tensor_groups() -> None:
    setup = replace(SYSTEM.decode, overlap="none", drafts=0)
    times = [
        decode_step(
            replace(SYSTEM, model="llama-3-70b", decode=replace(setup, tensor=n, dies=n)),
            DecodeLoad(batch_per_npu=16),
        ).iteration_s
        for n in (1, 2, 4, 8)
    ]
    assert times == sorted(times, reverse=True)


def test_the_explanation_adds_up() -> None:
    step = decode_step(SYSTEM, DecodeLoad())
    text = explain_decode(step)
    for op in (*step.layer.attention, *step.layer.feed_forward):
        assert op.name in text
    assert f"{step.tpot_s * 1e3:.2f} ms" in text
    assert sum(step.parts.values()) == pytest.approx(step.iteration_s)
