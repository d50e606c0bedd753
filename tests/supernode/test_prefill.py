from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.supernode.explain import explain_prefill
from silva.supernode.prefill import COMPUTE, COPY, VECTOR, prefill_step
from silva.supernode.schedule import busy_s
from silva.supernode.system import load_system
from silva.supernode.workload import PrefillLoad

SYSTEM = load_system("cloudmatrix-infer")
LOADS = st.builds(
    PrefillLoad,
    tokens_per_npu=st.floats(256, 65_536),
    prompt_len=st.floats(128, 32_768),
    reuse=st.floats(0, 0.9),
    cache=st.sampled_from(["none", "ub", "vpc"]),
    microbatch=st.booleans(),
    balance=st.sampled_from(["default", "perfect"]),
)
STEPS = settings(max_examples=10)


@STEPS
@given(LOADS)
def test_the_same_load_takes_the_same_time(load: PrefillLoad) -> None:
    assert prefill_step(SYSTEM, load) == prefill_step(SYSTEM, load)


@STEPS
@given(LOADS, st.floats(1, 4), st.sampled_from(["tokens_per_npu", "prompt_len"]))
def test_more_takes_longer(load: PrefillLoad, factor: float, field: str) -> None:
    more = replace(load, **{field: getattr(load, field) * factor})
    assert prefill_step(SYSTEM, load).batch_s <= prefill_step(SYSTEM, more).batch_s


@STEPS
@given(LOADS)
def test_balance_is_never_slower(load: PrefillLoad) -> None:
    times = [prefill_step(SYSTEM, replace(load, balance=b)).batch_s for b in ("perfect", "default")]
    assert times[0] <= times[1]


@STEPS
@given(LOADS, st.sampled_from(["scale_up", "bulk", "die", "pool"]), st.floats(1, 4))
def test_a_better_machine_is_never_slower(load: PrefillLoad, part: str, factor: float) -> None:
    hw = SYSTEM.machine
    if part == "bulk":
        rows = tuple((row[0], row[1] * factor, row[2] * factor) for row in hw.tables.bulk)
        better = replace(hw, tables=replace(hw.tables, bulk=rows))
    else:
        old = getattr(hw, part)
        rates = {n: getattr(old, n) * factor for n in vars(old) if n.endswith("gbps")}
        better = replace(hw, **{part: replace(old, **rates)})
    system = replace(SYSTEM)
    system.__dict__["machine"] = better
    before, after = (prefill_step(s, load).batch_s for s in (SYSTEM, system))
    assert after <= before * (1 + 1e-9)


def test_microbatches_gain_at_every_length() -> None:
    for length in (1024.0, 8192.0):
        rates = [
            prefill_step(SYSTEM, PrefillLoad(prompt_len=length, microbatch=on)).tokens_per_s
            for on in (True, False)
        ]
        assert 1.15 < rates[0] / rates[1] < 1.35


def test_reuse_over_ub_saves_more_than_over_vpc() -> None:
    def step(reuse: float, cache: str) -> tuple[float, float]:
        found = prefill_step(SYSTEM, PrefillLoad(reuse=reuse, cache=cache))
        return found.tokens_per_s, found.first_token_s

    rates = [step(reuse, "ub")[0] for reuse in (0.0, 0.125, 0.5, 0.9)]
    assert rates == sorted(rates)
    for reuse in (0.125, 0.5, 0.9):
        assert step(reuse, "ub")[0] > step(reuse, "vpc")[0] > step(0.0, "ub")[0]
        assert step(reuse, "ub")[1] < step(reuse, "vpc")[1]


def test_without_a_cache_nothing_is_reused() -> None:
    assert prefill_step(SYSTEM, PrefillLoad(reuse=0.5)) == prefill_step(SYSTEM, PrefillLoad())


def test_three_engines_share_the_work() -> None:
    step = prefill_step(SYSTEM, PrefillLoad())
    busy = busy_s(step.events)
    assert busy.keys() == {COMPUTE, VECTOR, COPY}
    assert step.parts["layers"] < 0.9 * sum(busy.values())


def test_collectives_of_attention_wait_for_links_that_dispatch_uses() -> None:
    links = [e for e in prefill_step(SYSTEM, PrefillLoad()).events if e.task.also]
    spans = sorted((e.start_s, e.end_s) for e in links)
    assert {e.task.name for e in links} == {"all-gather", "all-to-all", "dispatch", "combine"}
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_a_dense_model_on_a_tensor_group() -> None:
    setup = replace(SYSTEM.prefill, overlap="none", tensor=8, dies=8, drafts=0, sequence_group=1)
    dense = replace(SYSTEM, model="llama-3-70b", prefill=setup)
    step = prefill_step(dense, PrefillLoad(microbatch=False))
    assert {e.task.name for e in step.events} >= {"into heads", "all-reduce", "dense up"}


def test_the_explanation_adds_up() -> None:
    step = prefill_step(SYSTEM, PrefillLoad(reuse=0.5, cache="ub"))
    assert f"{step.first_token_s * 1e3:.2f} ms" in explain_prefill(step).replace(",", "")
    assert sum(step.parts.values()) == pytest.approx(step.first_token_s)
