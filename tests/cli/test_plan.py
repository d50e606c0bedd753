from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from silva.cli.main import make_app
from silva.cli.plan import seconds
from silva.errors import ConfigError


def planned(*words: object) -> Result:
    return CliRunner().invoke(make_app(), ["plan", *map(str, words)])


def test_a_step_is_explained_drawn_and_traced(tmp_path: Path) -> None:
    png, trace = tmp_path / "layer.png", tmp_path / "trace.json"
    result = planned("--explain", "--prompt", 4096, "--gantt", png, "--trace", trace)
    assert result.exit_code == 0
    assert "experts up" in result.stdout
    assert png.read_bytes().startswith(b"\x89PNG")
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_step_of_prefill_is_drawn_and_traced_too(tmp_path: Path) -> None:
    png, trace = tmp_path / "layer.png", tmp_path / "trace.json"
    result = planned("--explain", "--phase", "prefill", "--gantt", png, "--trace", trace)
    assert result.exit_code == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"all-gather", "dispatch", "combine"} <= names


def test_drafts_are_as_they_are_asked_for() -> None:
    for words, tokens in ((("--no-mtp",), "1.00"), (("--acceptance", 0.9), "1.90")):
        result = planned("--explain", "--prompt", 4096, *words)
        (line,) = (each for each in result.stdout.splitlines() if "tokens a request" in each)
        assert line.split()[-1] == tokens


def test_a_plan_as_json_and_as_a_page(tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    words = ["--rate", 20, "--requests", 60, "--ttft-p99", "5s", "--output", 50, "--json"]
    result = planned(*words, "--out", page)
    assert page.read_text().count("data:image/png;base64,") == 3
    assert "http" not in page.read_text()
    assert result.exit_code == 0
    best = json.loads(result.stdout)["best"]
    assert best["holds"] is True
    assert best["price"] == best["nodes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gantt", "x.png"], "--gantt has no effect without --explain"),
        (["--trace", "x.json"], "--trace has no effect without --explain"),
        (["--explain", "--out", "x.html"], "--out has no effect with --explain"),
        (["--explain", "--traffic", "x.csv"], "--traffic has no effect with --explain"),
        (["--phase", "prefill"], "--phase has no effect without --explain"),
        (["--explain", "--phase", "prefill"], "--phase has no effect without --gantt or --trace"),
        (["--out", "/nowhere/plan.html"], "cannot be written"),
        (["--out", f"{__file__}/plan.html"], "cannot be written"),
        (["--explain", "--gantt", "/nowhere/layer.png"], "cannot be written"),
        (["--acceptance", "2"], "acceptance: 2.0 is out of range"),
        (["--rate", "0"], "rate: 0.0 is out of range"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    result = planned(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize(("text", "value"), [("2s", 2.0), ("50ms", 0.05), ("1.5us", 1.5e-6)])
def test_times(text: str, value: float) -> None:
    assert seconds(text, "x") == pytest.approx(value)


@pytest.mark.parametrize("text", ["2", "s", "0s", "-1s", "1e3s", "2 minutes"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        seconds(text, "x")
