"""Both sides of a trace beside each other: figures, spreads, bars."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from reality_cases import SETTINGS, asked, config, profile

from silva.errors import RunError
from silva.reality.compare import BAR, Comparison, Turn, table, turn_of
from silva.reality.trace import TraceConfig
from silva.reality.twin import Answered, Twin
from silva.serving.bench.config import BenchConfig
from silva.serving.bench.nouns import Outcome, Planned
from silva.serving.bench.run import Measured

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import render_reality
from reality import published
from validation_cases import FACTS


def simulated(output: int = 8) -> list[Answered]:
    trace = [asked(0.05 * n, 32, output, 1000 * n) for n in range(10)]
    return Twin(profile(), config(), SETTINGS, None).run(trace)


def measured(answers: list[Answered], slower: float = 1.0, error: str = "") -> Measured:
    """A server that did what was simulated, so many times as slow."""
    found = Measured(BenchConfig(), 1)
    for index, answer in enumerate(answers):
        at_s = answer.asked.at_s
        planned = Planned(index, at_s, len(answer.asked.prompt), answer.asked.output)
        tokens_s = [at_s + slower * (token_s - at_s) for token_s in answer.tokens_s]
        timings: dict[str, float | None] = {"prefill_ms": 32.0 * slower, "queue_ms": None}
        found.outcomes.insert(0, Outcome(planned, at_s, at_s, tokens_s[-1], tokens_s))
        found.outcomes[0].error, found.outcomes[0].timings = error, timings
        found.elapsed_s = max(found.elapsed_s, tokens_s[-1])
    return found


def turn(slower: float = 1.0) -> Turn:
    answers = simulated()
    return turn_of(measured(answers, slower), answers)


def compared(*slower: float) -> Comparison:
    return Comparison(20.0, TraceConfig(), [turn(each) for each in slower])


def test_a_server_that_does_as_predicted_holds() -> None:
    found = compared(1.0, 1.0, 1.0)
    assert found.holds
    assert [verdict.error for verdict in found.verdicts] == pytest.approx([0.0] * 5, abs=1e-5)
    assert found.phases()["prefill"] == pytest.approx((32.0, 32.0))


def test_a_model_that_is_off_by_more_than_the_bar_does_not_hold() -> None:
    found = compared(1.25, 1.25, 1.25)
    by_name = {verdict.name: verdict for verdict in found.verdicts}
    assert by_name["tpot_p50_ms"].error == pytest.approx(-0.2, abs=1e-3)
    assert not by_name["tpot_p50_ms"].holds
    assert by_name["tpot_p99_ms"].bar == pytest.approx(2 * BAR)
    assert not found.holds
    assert "DOES NOT HOLD" in table(found)


def test_the_measured_spread_widens_the_bar() -> None:
    found = compared(0.8, 1.2, 1.3)
    verdict = found.verdicts[0]
    assert verdict.spread == pytest.approx(1 - 0.8 / 1.2, abs=1e-3)
    assert verdict.bar == pytest.approx(verdict.spread)
    assert verdict.holds


def test_requests_that_fail_let_nothing_hold() -> None:
    answers = simulated()
    found = measured(answers)
    found.outcomes[0].error = "timeout"
    assert not Comparison(20.0, TraceConfig(), [turn_of(found, answers)]).holds
    with pytest.raises(RunError, match="no request"):
        turn_of(measured(answers, error="timeout"), answers)


def test_answers_of_one_token_have_no_time_a_further_token() -> None:
    answers = simulated(output=1)
    found = Comparison(20.0, TraceConfig(), [turn_of(measured(answers), answers)])
    assert found.holds
    json.dumps(found.as_plain(), allow_nan=False)


def test_everything_is_in_the_json() -> None:
    plain = json.loads(json.dumps(compared(1.0, 1.1).as_plain(), allow_nan=False))
    assert plain["holds"] is True
    assert len(plain["turns"]) == 2
    request = plain["turns"][0]["simulated"]["requests"][0]
    assert len(request["tokens_ms"]) == 8
    assert set(request["phases_ms"]) == {"queue", "prefill", "transfer", "first_decode"}


def test_the_page_shows_what_the_benchmark_publishes(tmp_path: Path) -> None:
    found = json.loads(json.dumps(compared(1.0, 1.3).as_plain()))
    result = {**FACTS, "command": "python benchmarks/reality.py", "model": "tiny"}
    (tmp_path / "reality.json").write_text(json.dumps({**result, **published(found)}))
    shown = render_reality.reality(tmp_path)
    assert "2 turns of 10 requests" in shown
    assert "| first decode | " in shown
    assert "tokens_ms" not in (tmp_path / "reality.json").read_text()
