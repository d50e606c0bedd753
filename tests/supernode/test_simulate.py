from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.errors import ConfigError
from silva.supernode.cluster import Cluster, Failure
from silva.supernode.engine import Engine, _run_s, _steps_until
from silva.supernode.fleet import make_fleet
from silva.supernode.generate import Shape, generate
from silva.supernode.records import Records
from silva.supernode.sampling import MAX_SAMPLES
from silva.supernode.simulate import Simulation, simulate
from silva.supernode.traces import Traffic

sys.path.insert(0, str(Path(__file__).parent))
from small import small_system

SYSTEM = small_system()
SPLIT = Cluster(prefill=2, decode=2, batch_per_npu=16, mtp=False)
BOTH = Cluster(prefill=0, decode=2, batch_per_npu=16, mtp=False)
RUNS = settings(max_examples=15)
TRAFFICS = st.builds(
    lambda kind, rate, prompt, output, seed: generate(
        Shape(kind=kind, rate=rate, seconds=4.0, prompt=prompt, output=output, think_s=1.0), seed
    ),
    st.sampled_from(["poisson", "bursty", "sessions"]),
    st.floats(1, 20),
    st.floats(20, 3000),
    st.floats(1, 300),
    st.integers(0, 99),
)


def check(records: Records) -> None:
    """Nothing is lost, and nobody is served before they come."""
    traffic = records.traffic
    assert not np.isnan(records.finished_s).any()
    assert (records.attempts >= 1).all()
    assert (traffic.arrival_s <= records.started_s + 1e-9).all()
    assert (records.started_s < records.first_token_s).all()
    assert (records.first_token_s <= records.finished_s).all()
    more = traffic.output > 1
    assert (records.first_token_s[more] < records.finished_s[more]).all()
    assert all(0 <= share <= 1 for share in records.busy.values())


def fields(records: Records) -> list[list[float]]:
    return [records.started_s.tolist(), records.first_token_s.tolist(), records.finished_s.tolist()]


@RUNS
@given(TRAFFICS, st.sampled_from([SPLIT, BOTH, replace(SPLIT, cache_gb=1000.0)]))
def test_every_request_is_answered_and_blocks_come_back(traffic: Traffic, cluster: Cluster) -> None:
    fleet = make_fleet(cluster, SYSTEM, traffic)
    check(Simulation(cluster, SYSTEM, traffic, fleet).run())
    for engine in fleet.engines:
        counts = engine.state.counts()
        assert (counts.blocks_used, counts.running, counts.waiting, counts.held) == (0, 0, 0, 0)
        assert counts.blocks_free == counts.blocks


@RUNS
@given(TRAFFICS)
def test_the_same_traffic_has_the_same_answers(traffic: Traffic) -> None:
    assert fields(simulate(SPLIT, traffic, system=SYSTEM)) == fields(
        simulate(SPLIT, traffic, system=SYSTEM)
    )


@RUNS
@given(TRAFFICS, st.sampled_from([SPLIT, BOTH]))
def test_steps_taken_together_are_the_steps_taken_one_by_one(
    traffic: Traffic, cluster: Cluster
) -> None:
    together = simulate(cluster, traffic, system=SYSTEM)
    fleet = make_fleet(cluster, SYSTEM, traffic)
    for engine in fleet.engines:
        engine.takes_together = False
    singly = Simulation(cluster, SYSTEM, traffic, fleet).run()
    for first, second in zip(fields(together), fields(singly), strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=0.05)
    assert together.steps == pytest.approx(singly.steps, rel=0.02, abs=3)


@RUNS
@given(
    TRAFFICS,
    st.sampled_from(["prefill", "decode"]),
    st.floats(0, 6),
    st.floats(0.1, 5),
)
def test_a_lost_instance_loses_no_request(
    traffic: Traffic, role: str, at_s: float, for_s: float
) -> None:
    check(simulate(SPLIT, traffic, (Failure(role, 0, at_s, for_s),), SYSTEM))


def test_losing_the_only_instance_delays_until_it_is_back() -> None:
    traffic = generate(Shape(rate=5.0, seconds=4.0, output=200.0))
    one = replace(BOTH, decode=1)
    calm = simulate(one, traffic, system=SYSTEM)
    lost = simulate(one, traffic, (Failure("decode", 0, 2.0, 10.0),), SYSTEM)
    check(lost)
    assert lost.seconds > calm.seconds + 5
    assert lost.attempts.max() == 2


@pytest.mark.parametrize(
    "spans", [[(2.0, 10.0), (3.0, 9.0)], [(2.0, 10.0), (3.0, 1.0)], [(2.0, 1.0), (2.5, 9.5)]]
)
def test_failures_that_overlap_are_one_long_one(spans: list[tuple[float, float]]) -> None:
    traffic = generate(Shape(rate=5.0, seconds=4.0, output=200.0))
    one = replace(BOTH, decode=1)
    together = simulate(one, traffic, tuple(Failure("decode", 0, *s) for s in spans), SYSTEM)
    check(together)
    assert fields(together) == fields(
        simulate(one, traffic, (Failure("decode", 0, 2, 10),), SYSTEM)
    )


def test_a_long_silence_has_a_bounded_number_of_samples() -> None:
    few = np.array([3, 3])
    traffic = Traffic(np.array([0.0, 1e12]), few, few)
    samples = simulate(SPLIT, traffic, system=SYSTEM).samples
    assert MAX_SAMPLES // 2 <= len(samples) < MAX_SAMPLES
    times = [sample.time_s for sample in samples]
    assert times == sorted(times)
    assert times[-1] > 0.9e12


def test_more_instances_wait_less() -> None:
    traffic = generate(Shape(rate=60.0, seconds=10.0, prompt=4096.0, output=100.0))
    waits = [
        np.percentile(simulate(replace(SPLIT, prefill=n), traffic, system=SYSTEM).ttft_s, 99)
        for n in (1, 2, 4)
    ]
    assert waits[0] > waits[1] > waits[2]


def test_a_context_cache_computes_less() -> None:
    traffic = generate(Shape(kind="sessions", rate=4.0, seconds=20.0, think_s=2.0), seed=2)
    cold = simulate(SPLIT, replace(traffic, shared=()), system=SYSTEM)
    warm = simulate(replace(SPLIT, cache_gb=1000.0), traffic, system=SYSTEM)
    assert cold.cached_tokens.sum() == 0
    assert warm.cached_tokens.sum() > 0.3 * traffic.prompt.sum()
    assert warm.ttft_s.mean() < cold.ttft_s.mean()


def test_a_target_for_the_time_a_token_bounds_the_batch() -> None:
    traffic = generate(Shape(rate=40.0, seconds=10.0, output=300.0))
    cluster = replace(SPLIT, decode=1, batch_per_npu=64)
    free = simulate(cluster, traffic, system=SYSTEM)
    target = float(np.nanpercentile(free.tpot_s, 50)) * 0.9
    held = simulate(replace(cluster, tpot_s=target), traffic, system=SYSTEM)
    check(held)
    largest = [max(sample.running for sample in each.samples) for each in (held, free)]
    assert largest[0] < largest[1]


def test_what_cannot_fit_says_what_would() -> None:
    traffic = generate(Shape(rate=1.0, seconds=2.0))
    few = replace(SYSTEM, model="deepseek-r1", decode=replace(SYSTEM.decode, tensor=1, dies=8))
    with pytest.raises(ConfigError, match=r"deepseek-r1 takes .* GB on each of 8 dies.* would do"):
        simulate(SPLIT, traffic, system=few)
    long = Traffic(np.zeros(1), np.array([10_000_000]), np.array([1]))
    with pytest.raises(ConfigError, match="a request of 10,000,001 tokens"):
        simulate(SPLIT, long, system=SYSTEM)
    with pytest.raises(ConfigError, match="there are 2 decode instances"):
        simulate(SPLIT, traffic, (Failure("decode", 2),), SYSTEM)


def test_no_traffic() -> None:
    nothing = Traffic(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    assert simulate(SPLIT, nothing, system=SYSTEM).summary()["requests"] == 0


def test_links_and_memory_are_used_as_much_as_there_is_traffic() -> None:
    few, many = (
        simulate(SPLIT, generate(Shape(rate=rate, seconds=4.0)), system=SYSTEM).summary()
        for rate in (2.0, 8.0)
    )
    assert 0 < few["links"]["hand-over"] < many["links"]["hand-over"] < 1
    assert few["links"]["cache"] == 0.0
    assert 0 < few["largest_kv_share"] < many["largest_kv_share"] <= 1
    shape = Shape(kind="sessions", rate=4.0, seconds=4.0, think_s=1.0)
    cached = simulate(replace(SPLIT, cache_gb=1000.0), generate(shape), system=SYSTEM)
    assert cached.links["cache"] > 0


def test_memory_of_an_instance_that_is_lost_counts_as_none() -> None:
    traffic = generate(Shape(rate=5.0, seconds=4.0, output=200.0))
    failures = (Failure("decode", 1, 0.0, 1e3), Failure("prefill", 1, 0.0, 1e3))
    lost = simulate(SPLIT, traffic, failures, SYSTEM)
    fewer = simulate(replace(SPLIT, prefill=1, decode=1), traffic, system=SYSTEM)
    # The first sample is taken before anything is lost.
    shares = [[sample.kv_share for sample in each.samples[1:]] for each in (lost, fewer)]
    assert shares[0] == shares[1]
    assert max(shares[0]) > 0


def test_files_of_a_simulation(tmp_path: Path) -> None:
    records = simulate(SPLIT, generate(Shape(rate=5.0, seconds=4.0)), system=SYSTEM)
    records.write_parquet(tmp_path / "requests.parquet")
    records.write_queues(tmp_path / "queues.parquet")
    records.write_summary(tmp_path / "summary.json")
    queues = pq.read_table(tmp_path / "queues.parquet")
    assert queues.column_names == ["time_s", "waiting", "running", "coming", "kv_share"]
    assert queues["running"].to_pylist() == [sample.running for sample in records.samples]
    table = pq.read_table(tmp_path / "requests.parquet")
    assert table.num_rows == len(records.traffic)
    assert table["ttft_s"].to_pylist() == records.ttft_s.tolist()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finished"] == summary["requests"]
    assert summary["ttft_ms"]["p50"] <= summary["ttft_ms"]["p99"]
    assert records.goodput(1e9, 1e9) == pytest.approx(summary["requests_per_s"])
    assert records.goodput(0.0, 1e9) == 0.0


@given(st.floats(1e-3, 1), st.floats(0, 1e-3), st.integers(1, 500))
def test_the_step_under_way_at_a_time(first: float, slope: float, steps: int) -> None:
    end = _run_s(steps, first, slope)
    assert _steps_until(end - first / 3, first, slope) == steps
    assert _steps_until(end + first / 3, first, slope) == steps + 1


def test_an_idle_engine_has_nothing_to_finish() -> None:
    traffic = generate(Shape(rate=1.0, seconds=2.0))
    engine: Engine = make_fleet(BOTH, SYSTEM, traffic).decode[0]
    engine.start(0.0)
    with pytest.raises(RuntimeError, match="no step under way"):
        engine.finish()
