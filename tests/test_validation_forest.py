"""Served forests in docs/validation.md, and the benchmark behind the tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests"))

import common  # noqa: E402
import render_forest  # noqa: E402
from forest_serving import BASE, MIXED, ONE, PEFT  # noqa: E402
from validation_cases import FACTS  # noqa: E402


def result(base: float = 1000.0, stock: float = 200.0, last: float = 5.5) -> dict[str, Any]:
    """What the benchmark writes, of 900 tokens a second in mixed batches."""
    rates = {BASE: base, MIXED: 900.0, ONE: 950.0, PEFT: stock}
    spreads = {name: common.spread([rate]) for name, rate in rates.items()}
    to = {n: common.ratio(spreads[MIXED], spreads[n]) for n in (BASE, ONE, PEFT)}
    row = {
        "asked": 90,
        "requests": 400,
        "leaf_hit_rate": 0.75,
        "ms_a_swap": 0.5,
        "latency_p50_s": 0.1,
        "latency_p99_s": 0.2,
        "adapter_bytes": 2e6,
        "peak_rss_bytes": 7e8,
    }
    rows = [{**row, "registered": n, "ms_a_request": ms} for n, ms in ((100, 5.0), (10_000, last))]
    load = {"streams": 64, "requests": 128, "prompt": 64, "answer": 48}
    about = {**FACTS, "command": render_forest.COMMAND}
    mixed = {"load": load, "tokens_per_s": spreads, "mixed_to": to}
    return {"mixed": {**mixed, **about}, "many": {"load": load, "rows": rows, **about}}


def test_the_tables_say_what_was_measured(tmp_path: Path) -> None:
    common.write_json(tmp_path / "forest-serving.json", result())
    text = render_forest.forest(tmp_path)
    assert "| base | 1,000.00 (1,000.00 to 1,000.00) | 0.90 (0.90 to 0.90) |" in text
    assert "| 10,000 | 90 | 5.50 | 100 | 200 | 75.0 % | 0.50 | 2.0 | 700 |" in text
    assert "64 at once, 128 a turn" in text
    alone = {"many": result()["many"]}
    common.write_json(tmp_path / "forest-serving.json", alone)
    assert "tokens/s" not in render_forest.forest(tmp_path)


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        (result(), ["yes", "yes", "yes"]),
        (result(base=1100.0), ["no", "yes", "yes"]),
        (result(stock=301.0), ["yes", "no", "yes"]),
        (result(last=6.1), ["yes", "yes", "no"]),
    ],
)
def test_claims_hold_of_good_results_alone(
    content: dict[str, Any], holds: list[str], tmp_path: Path
) -> None:
    assert {row[2] for row in render_forest.claims(tmp_path, "never")} == {"never"}
    common.write_json(tmp_path / "forest-serving.json", content)
    assert [row[2] for row in render_forest.claims(tmp_path, "never")] == holds
