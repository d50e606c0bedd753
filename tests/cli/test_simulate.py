from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from silva.cli.main import make_app


def simulated(*words: object) -> Result:
    return CliRunner().invoke(make_app(), ["simulate", *map(str, words)])


def test_made_up_traffic_and_its_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = simulated("--rate", 5, "--seconds", 4, "--out", out, "--fail", "decode:0:1:0.5")
    assert result.exit_code == 0
    assert "first token" in result.stdout
    assert "of all memory in the fullest sample" in result.stdout
    assert {path.name for path in out.iterdir()} == {
        "requests.parquet",
        "queues.parquet",
        "summary.json",
        "simulation.png",
    }


def test_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    row = {"timestamp": 0, "input_length": 2048, "output_length": 20, "hash_ids": [1, 2, 3, 4]}
    path.write_text("\n".join(json.dumps({**row, "timestamp": 5000 * n}) for n in range(3)))
    result = simulated("--traffic", path, "--cache-gb", 100, "--prefill", 2, "--json")
    summary = json.loads(result.stdout)
    assert summary["finished"] == 3
    assert summary["cached_tokens"] > 0


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("x\n")
    result = simulated("--traffic", tmp_path / "trace.csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "line 1: the columns are not" in result.stderr
    (tmp_path / "file").write_text("")
    assert "cannot be made" in simulated("--out", tmp_path / "file").stderr
    assert "write WHAT:NUMBER:AT:FOR" in simulated("--fail", "decode").stderr
    assert "'wave' is not allowed" in simulated("--shape", "wave").stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cache-plane", "x"], "cache_plane"),
        (["--fail", "prefill:6:1:1"], "there are 6 prefill instances"),
        (["--prompt", "100000000"], "traffic"),
    ],
)
def test_nothing_is_made_for_what_is_not_simulated(
    words: list[str], message: str, tmp_path: Path
) -> None:
    result = simulated("--out", tmp_path / "new", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
