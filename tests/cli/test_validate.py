from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from silva.cli.main import make_app

CASE = {"name": "a", "kind": "decode", "batch_per_npu": 8, "kv_len": 4096, "microbatch": False}


def test_the_table_is_printed() -> None:
    result = CliRunner().invoke(make_app(), ["validate", "cloudmatrix"])
    assert result.exit_code == 0
    assert "scored rows: mean error" in result.stdout


def test_the_rows_as_json() -> None:
    result = CliRunner().invoke(make_app(), ["validate", "baselines", "--json"])
    assert json.loads(result.stdout)["holds"] is True


def test_cases_are_answered(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([CASE]))
    words = ["validate", "cloudmatrix", "--cases", str(path), "--json"]
    result = CliRunner().invoke(make_app(), words)
    (answer,) = json.loads(result.stdout)
    assert answer["name"] == "a"
    assert 10 < answer["tpot_ms"] < 20


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([{**CASE, "batch": 1}]))
    result = CliRunner().invoke(make_app(), ["validate", "cloudmatrix", "--cases", str(path)])
    assert result.exit_code == 2
    assert "case 1: batch: unknown field" in result.stderr


def test_a_system_is_for_questions_only() -> None:
    result = CliRunner().invoke(make_app(), ["validate", "cloudmatrix", "--system", "xdeepserve"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--system has no effect without --cases" in result.stderr
