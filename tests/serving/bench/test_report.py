from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from silva.config import build, overlay
from silva.errors import ConfigError, RunError
from silva.serving.bench import report
from silva.serving.bench.config import BenchConfig
from silva.serving.bench.measure import summarise
from silva.serving.bench.nouns import UNFINISHED, Outcome, Planned
from silva.serving.bench.run import Measured

PNG = b"\x89PNG"


def measured(errors: tuple[str, ...] = ("", "", "http 429", UNFINISHED), **flags: Any) -> Measured:
    """One request a second, each with an error or none, and two tokens."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    found = Measured(build(BenchConfig, overlay({}, named), "test"), 1, "a $model")
    for n, error in enumerate(errors):
        moments = [n + 0.25, n + 0.75]
        planned = Planned(n, float(n), 10, 2)
        outcome = Outcome(planned, n, n + 0.05, n + 0.8, moments, 10, 2, 5, error, "not now")
        found.outcomes.insert(0, outcome)
    found.elapsed_s = len(errors) - 0.2
    return found


def printed(found: Measured) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(report.table(found, summarise(found)))
    return capture.get()


def test_the_files_of_a_report(tmp_path: Path) -> None:
    found = measured(targets__ttft_s=0.3)
    report.write_report(found, summarise(found), tmp_path / "deep" / "out")
    folder = tmp_path / "deep" / "out"
    assert sorted(p.name for p in folder.iterdir()) == [
        "plots.png",
        "report.json",
        "requests.jsonl",
    ]
    content = json.loads((folder / "report.json").read_text())
    assert (content["benchmark"], content["loop"], content["model"]) == (
        "serve",
        "open",
        "a $model",
    )
    assert content["config"]["targets"]["ttft_s"] == 0.3
    assert content["summary"]["goodput"]["met"] == 2
    assert content["summary"]["ttft_ms"]["p50"] == pytest.approx(250.0)
    rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert [row["met"] for row in rows] == [True, True, False, False]
    assert (folder / "plots.png").read_bytes().startswith(PNG)


def test_a_report_of_nothing_answered_has_no_picture(tmp_path: Path) -> None:
    found = measured(errors=("timeout", UNFINISHED))
    report.write_report(found, summarise(found), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "requests.jsonl"]
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["ttft_ms"] is None


def test_answers_of_one_token_can_be_drawn(tmp_path: Path) -> None:
    found = measured(errors=("",), targets__tpot_s=0.1)
    found.outcomes[0].tokens_s = [0.25]
    found.outcomes[0].prompt_tokens = found.outcomes[0].cached_tokens = None
    report.write_report(found, summarise(found), tmp_path)
    assert (tmp_path / "plots.png").read_bytes().startswith(PNG)


def test_a_report_is_not_overwritten(tmp_path: Path) -> None:
    report.refuse_existing(tmp_path)
    found = measured()
    report.write_report(found, summarise(found), tmp_path)
    with pytest.raises(ConfigError, match="holds a report already"):
        report.refuse_existing(tmp_path)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = measured()
    with pytest.raises(RunError, match="cannot be written"):
        report.write_report(found, summarise(found), tmp_path / "file")


def test_numbers_that_are_none_are_null() -> None:
    found = measured()
    found.elapsed_s = float("inf")
    assert json.loads(report.as_json(found, summarise(found)))["summary"]["elapsed_s"] is None


def test_the_table_says_what_people_ask() -> None:
    text = printed(measured(targets__ttft_s=0.3, targets__tpot_s=0.6))
    for part in (
        "time to first token", "250 ms", "500 ms", "2 of 4 requests answered in 3.8 s",
        "of 1.00 offered", "66.7% with first token in 300 ms, each further in 600 ms",
        "50.0% of the prompts' tokens (10)", "1 with http 429: not now", "1 requests were under way",
        "sent late", "poisson, 1 a second",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("flags", "title"),
    [
        ({"load__arrival": "closed", "load__concurrency": 4}, "4 at a time"),
        ({"load__arrival": "bursty", "load__cv": 3.0}, "bursty, 1 a second, cv 3"),
        ({"load__arrival": "trace", "load__speed": 2.0}, "arrivals of the trace, 2 times as fast"),
    ],
)
def test_the_title_names_the_load(flags: dict[str, Any], title: str) -> None:
    text = printed(measured(errors=("",), **flags))
    assert title in text
    assert "goodput" not in text and "failed" not in text and "interrupted" not in text
    assert ("sent late" in text) == (flags["load__arrival"] != "closed")


def test_long_times_are_in_seconds() -> None:
    found = measured(errors=("",))
    found.outcomes[0].finished_s = 125.0
    assert "125.0 s" in printed(found)
