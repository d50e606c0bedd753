"""Two microbatches in docs/validation.md, and the benchmark behind the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests"))

import common  # noqa: E402
import render_overlap  # noqa: E402
from validation_cases import FACTS  # noqa: E402

from silva.experts import futex  # noqa: E402


def found(delay_s: float, two: float, rule: float) -> dict[str, Any]:
    return {
        "delay_s": delay_s,
        "tokens_per_s": {"one": common.spread([1000.0])},
        "ratio": {"two": common.spread([two]), "rule": common.spread([rule])},
        "rule_split": [0.0, 0.98],
    }


def result(two: float = 1.45, rule: float = 0.99) -> dict[str, Any]:
    """What the benchmark writes, of two sizes."""
    size = {"ranks": 2, "context": 1024, "steps": 100, "worst_difference": 2e-6}
    sizes = [
        {**size, "sequences": 2, "delays": [found(0.002, 1.0, 1.0), found(0.0, 0.6, 0.995)]},
        {**size, "sequences": 32, "delays": [found(0.002, two, 1.4), found(0.0, 0.9, rule)]},
    ]
    return {**FACTS, "command": render_overlap.COMMAND, "sizes": sizes}


def test_the_table_says_what_was_measured(tmp_path: Path) -> None:
    common.write_json(tmp_path / "overlap.json", result())
    text = render_overlap.overlap(tmp_path)
    assert "| 32, 2 ms later | 1,000.00 (1,000.00 to 1,000.00) | 1.45" in text
    assert "| 2, at once |" in text
    assert "at most 2.0e-06 of their largest value" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        (result(), ["yes", "yes"]),
        (result(two=1.39), ["no", "yes"]),
        (result(rule=0.97), ["yes", "no"]),
    ],
)
def test_claims_hold_of_good_results_alone(
    content: dict[str, Any], holds: list[str], tmp_path: Path
) -> None:
    assert {row[2] for row in render_overlap.claims(tmp_path, "never")} == {"never"}
    common.write_json(tmp_path / "overlap.json", content)
    assert [row[2] for row in render_overlap.claims(tmp_path, "never")] == holds


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
def test_a_quick_run_gives_what_the_page_needs(tmp_path: Path) -> None:
    words = ["--quick", "--work", str(tmp_path), "--results", str(tmp_path / "r")]
    program = [sys.executable, str(ROOT / "benchmarks" / "overlap.py"), *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "r").exists()  # nothing is published
    content = json.loads((tmp_path / "overlap.json").read_text())
    assert "one microbatch" in render_overlap.overlap(tmp_path)
    assert len(render_overlap.claims(tmp_path, "never")) == 2
    (size,) = content["sizes"]
    assert [found["delay_s"] for found in size["delays"]] == [0.002, 0.0]
    assert 0.0 < size["worst_difference"] < 1e-4
