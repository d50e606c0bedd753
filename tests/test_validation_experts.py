"""The section Experts across ranks of docs/validation.md, and the benchmark behind it."""

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
import dispatch  # noqa: E402
import render_experts  # noqa: E402
from validation_cases import FACTS  # noqa: E402

from silva.experts import futex  # noqa: E402
from silva.experts.sizes import BufferSizes  # noqa: E402


def result(times: float = 4.0, off: int = 0) -> dict[str, Any]:
    """What the benchmark writes, of one size."""
    way = {"wall_s": common.spread([1e-3]), "cpu_s": common.spread([2e-3])}
    ratio = dict.fromkeys(("wall", "cpu"), common.spread([times]))
    found = {"dispatch": 14336.0 + off, "dispatch_formula": 14336.0}
    found |= {"combine": 14336.0, "combine_formula": 14336.0}
    size = {
        "ranks": 8,
        "hidden": 7168,
        "tokens": 16,
        "ways": {"silva, exact": way, dispatch.TWIN: way},
        "ratio": {"silva, exact": ratio},
        "bytes": {"silva, exact": found},
        "memory": {"silva, exact": {"bytes": 2**20, "formula_bytes": 2**20}},
    }
    content = {"sizes": [size], "published": dispatch.published()}
    return {**FACTS, "command": render_experts.COMMAND, **content}


def test_the_table_says_what_was_measured(tmp_path: Path) -> None:
    common.write_json(tmp_path / "dispatch.json", result())
    text = render_experts.dispatch(tmp_path)
    assert "| 8, 16 x 7168, silva, exact | 1.00 (1.00 to 1.00) |" in text
    assert "14,336 of 14,336" in text
    assert "225 MiB of tokens and 420 MiB of answers" in text
    rows = [line for line in text.splitlines() if line.startswith("| 8,")]
    assert len({line.count("|") for line in rows}) == 1


def test_claims_hold_of_good_results_alone(tmp_path: Path) -> None:
    assert {row[2] for row in render_experts.claims(tmp_path, "never")} == {"never"}
    for content, holds in ((result(), ["yes", "yes"]), (result(times=2.9), ["yes", "no"])):
        common.write_json(tmp_path / "dispatch.json", content)
        assert [row[2] for row in render_experts.claims(tmp_path, "never")] == holds
    common.write_json(tmp_path / "dispatch.json", result(off=1))
    assert render_experts.claims(tmp_path, "never")[0][2] == "no"


@pytest.mark.parametrize("wire", ["exact", "int8"])
def test_the_formula_is_that_of_the_buffers(wire: Any) -> None:
    for sizes in (
        BufferSizes(8, 16, 8, 4, 7168, 2, wire),
        BufferSizes(**dispatch.PUBLISHED, item_bytes=2, wire=wire),
    ):
        assert dispatch.formula(sizes) == sizes.dispatch + sizes.combine


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
def test_a_quick_run_gives_what_the_page_needs(tmp_path: Path) -> None:
    words = ["--quick", "--ranks", "2", "--work", str(tmp_path), "--results", str(tmp_path / "r")]
    program = [sys.executable, str(ROOT / "benchmarks" / "dispatch.py"), *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "r").exists()  # nothing is published
    content = json.loads((tmp_path / "dispatch.json").read_text())
    assert "EP, tokens" in render_experts.dispatch(tmp_path)
    # Exact tokens come back exact, but for the rounding of the sums.
    for size in content["sizes"]:
        errors = {name: way["worst_error"] for name, way in size["ways"].items()}
        assert errors["silva, exact"] < 0.01
        assert errors[dispatch.TWIN] < 0.01
        assert errors["silva, int8"] < 0.03
    assert render_experts.claims(tmp_path, "never")[0][2] == "yes"
