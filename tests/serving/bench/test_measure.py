from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.serving.bench.config import BenchConfig, TargetsConfig
from silva.serving.bench.measure import (
    count_tokens,
    gaps_s,
    goodput,
    meets,
    offered_rps,
    running_over_time,
    spread,
    summarise,
)
from silva.serving.bench.nouns import UNFINISHED, Outcome, Planned
from silva.serving.bench.run import Measured


def outcome(
    due: float, *tokens: float, error: str = "", late: float = 0.0, index: int = 0, **counts: int
) -> Outcome:
    """A request due at a time, with tokens so many seconds later."""
    moments = [due + t for t in tokens]
    end = moments[-1] if moments else due + 1.0
    planned = Planned(index, due, 10, 10)
    return Outcome(planned, due, due + late, end, moments, error=error, **counts)


def measured(*outcomes: Outcome, **targets: float) -> Measured:
    found = Measured(BenchConfig(targets=TargetsConfig(**targets)), 1, "m")
    found.outcomes = list(outcomes)
    found.elapsed_s = max((o.finished_s for o in outcomes), default=0.0)
    return found


def test_times_of_one_answer() -> None:
    found = outcome(2.0, 0.5, 0.6, 0.9, late=0.1)
    assert found.ttft_s == pytest.approx(0.5)
    assert found.tpot_s == pytest.approx(0.2)
    assert (found.end_to_end_s, found.lag_s) == (pytest.approx(0.9), pytest.approx(0.1))
    assert outcome(0.0, 0.5).tpot_s is None and outcome(0.0).ttft_s is None
    assert outcome(0.0, 0.5, 1.0, completion_tokens=6).tpot_s == pytest.approx(0.1)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50))
def test_percentiles_are_those_of_numpy(values: list[float]) -> None:
    found = spread(values)
    assert found is not None and found.count == len(values)
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        wanted = 1e3 * np.percentile(values, share)
        assert getattr(found, name) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert found.mean == pytest.approx(1e3 * np.mean(values))
    assert (found.min, found.max) == (1e3 * min(values), 1e3 * max(values))


def test_what_is_missing_is_left_out_of_a_spread() -> None:
    assert spread([None, None]) is None and spread([]) is None
    found = spread([None, 0.5])
    assert found is not None and (found.count, found.mean) == (1, 500.0)


def test_gaps_lie_within_answers_alone() -> None:
    gaps = gaps_s([outcome(0.0, 1.0, 1.5, 1.5), outcome(5.0, 1.0), outcome(9.0, 1.0, 3.0)])
    assert gaps.tolist() == pytest.approx([0.5, 0.0, 2.0])
    assert gaps_s([]).tolist() == []


def test_a_run_in_numbers() -> None:
    good = [outcome(float(n), 0.1, 0.2, 0.3, index=n) for n in range(4)]
    bad = [outcome(4.0, error="http 429"), outcome(5.0, 0.1, error="timeout")]
    cut = outcome(9.0, 0.5, error=UNFINISHED)
    summary = summarise(measured(*good, *bad, cut))
    assert (summary.sent, summary.answered, summary.failed, summary.unfinished) == (7, 4, 2, 1)
    assert summary.elapsed_s == 9.5 and summary.answered_rps == pytest.approx(4 / 9.5)
    assert summary.output_tokens_per_s == pytest.approx(12 / 9.5)
    assert summary.ttft_ms is not None and summary.ttft_ms.count == 4
    assert summary.tpot_ms is not None and summary.tpot_ms.mean == pytest.approx(100.0)
    assert summary.inter_token_ms is not None and summary.inter_token_ms.count == 8
    assert summary.send_lag_ms is not None and summary.send_lag_ms.max == 0.0
    assert summary.offered_rps == pytest.approx(6 / 9.0) and summary.goodput is None
    assert summary.running_mean == pytest.approx((4 * 0.3 + 1.0 + 0.1 + 0.5) / 9.5)
    assert summary.running_max == 1


def test_a_run_without_outcomes_has_numbers_too() -> None:
    summary = summarise(measured())
    assert (summary.sent, summary.running_max, summary.answered_rps) == (0, 0, 0.0)
    assert summary.ttft_ms is summary.offered_rps is None and summary.failures == ()


def test_errors_are_counted_by_kind_with_the_first_message() -> None:
    given = [outcome(0.0, error=kind) for kind in ("a", "b", "b", UNFINISHED, "")]
    for number, each in enumerate(given):
        each.message = f"message {number}"
    found = summarise(measured(*given)).failures
    assert [(f.kind, f.count, f.example) for f in found] == [
        ("b", 2, "message 1"),
        ("a", 1, "message 0"),
    ]


@pytest.mark.parametrize(
    ("targets", "met"),
    [
        ({"ttft_s": 0.1}, 1),
        ({"ttft_s": 0.2}, 2),
        ({"tpot_s": 0.1}, 2),
        ({"ttft_s": 0.2, "tpot_s": 0.1}, 1),
        ({"ttft_s": 9.0, "tpot_s": 9.0}, 3),
    ],
)
def test_goodput_is_what_meets_every_target(targets: dict[str, float], met: int) -> None:
    outcomes = [
        outcome(0.0, 0.1, 0.15),
        outcome(1.0, 0.2, 0.9),
        outcome(2.0, 0.5),  # one token: no time between tokens to miss
        outcome(3.0, 0.01, 0.02, error="timeout"),
        outcome(4.0, 0.01, error=UNFINISHED),
    ]
    found = goodput(outcomes, TargetsConfig(**targets), 10.0)
    assert found is not None
    assert (found.met, found.share, found.rps) == (met, met / 4, pytest.approx(met / 10))
    assert sum(meets(o, TargetsConfig(**targets)) for o in outcomes) == met


def test_without_a_target_there_is_no_goodput() -> None:
    assert goodput([outcome(0.0, 0.1)], TargetsConfig(), 1.0) is None
    empty = goodput([], TargetsConfig(ttft_s=1.0), 1.0)
    assert empty is not None and (empty.met, empty.share) == (0, 0.0)


def test_tokens_are_the_servers_count_where_it_counts() -> None:
    counted = outcome(0.0, 0.1, prompt_tokens=100, completion_tokens=9, cached_tokens=64)
    plain, silent = outcome(0.0, 0.1, 0.2), outcome(0.0, 0.1, prompt_tokens=50)
    found = count_tokens([counted, plain, silent])
    assert (found.prompt, found.output, found.cached) == (150, 12, 64)
    assert found.cached_share == pytest.approx(0.64)
    nothing = count_tokens([plain])
    assert nothing.prompt is nothing.cached is nothing.cached_share is None


def test_offered_is_the_rate_of_the_schedule() -> None:
    assert offered_rps([outcome(t, 9.0) for t in (3.0, 1.0, 2.0)]) == pytest.approx(1.0)
    assert offered_rps([outcome(1.0)]) is None and offered_rps([outcome(1.0)] * 3) is None


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=20))
def test_requests_under_way_at_any_moment(spans: list[tuple[float, float]]) -> None:
    outcomes = [replace(outcome(a), started_s=a, finished_s=a + d) for a, d in spans]
    moments, running = running_over_time(outcomes)
    assert len(moments) == 2 * len(spans) and (np.diff(moments) >= 0).all()
    if spans:
        assert running[-1] == 0
    for moment, after in zip(moments, running, strict=True):
        if (moments == moment).sum() == 1:
            assert after == sum(o.started_s <= moment < o.finished_s for o in outcomes)
