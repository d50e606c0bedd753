"""The tables of forests that are served in docs/validation.md, and what is claimed of them."""

from __future__ import annotations

from pathlib import Path

import common
from gfm import MISSING, code, provenance, table
from render_experts import over
from tuning import Numbers

COMMAND = "python benchmarks/forest_serving.py"
SHARE, TIMES, FLAT = 0.85, 3.0, 1.2
"""Of the base's throughput; PEFT's mixed batches; cost of a request among 10,000 and among 100."""
MB = 1e-6


def forest(results: Path) -> str:
    """Throughput of mixed batches, then what the number of registered clients costs."""
    content = common.read_json(results / "forest-serving.json") or {}
    parts = [_mixed(content["mixed"])] if "mixed" in content else []
    parts += [_many(content["many"])] if "many" in content else []
    return "\n\n".join(parts) or MISSING + code(COMMAND)


def _mixed(found: Numbers) -> str:
    load, ratios = found["load"], found["mixed_to"]
    rows = [
        (name, over(rate), over(ratios[name]) if name in ratios else "")
        for name, rate in found["tokens_per_s"].items()
    ]
    heads = ("requests", "tokens/s", "mixed batch, times this")
    note = (
        f"{load['streams']} at once, {load['requests']} a turn, prompts of {load['prompt']} tokens, "
        f"answers of {load['answer']}."
    )
    return "\n\n".join((table(heads, rows), note, provenance(found)))


def _many(found: Numbers) -> str:
    heads = (
        "registered",
        "asked for",
        "ms a request",
        "p50, ms",
        "p99, ms",
        "leaves found in memory",
        "ms to fetch one",
        "adapters, MB",
        "peak of all sizes so far, MB",
    )
    rows = [
        (
            f"{row['registered']:,}",
            f"{row['asked']:,}",
            f"{row['ms_a_request']:.2f}",
            f"{1e3 * row['latency_p50_s']:.0f}",
            f"{1e3 * row['latency_p99_s']:.0f}",
            f"{100 * row['leaf_hit_rate']:.1f} %",
            f"{row['ms_a_swap']:.2f}",
            f"{MB * row['adapter_bytes']:.1f}",
            f"{MB * row['peak_rss_bytes']:,.0f}",
        )
        for row in found["rows"]
    ]
    return "\n\n".join((table(heads, rows), provenance(found)))


def claims(results: Path, unmeasured: str) -> list[tuple[str, str, str]]:
    """Claim, measured, holds."""
    content = common.read_json(results / "forest-serving.json") or {}
    names = (
        f"32 clients in one batch reach {100 * SHARE:.0f} % of the base's throughput",
        f"and {TIMES:g} times that of PEFT's mixed batches",
        "a request costs as much among 10,000 registered clients as among 100",
    )
    rows = [(name, unmeasured, unmeasured) for name in names]
    if "mixed" in content:
        to = content["mixed"]["mixed_to"]
        share, times = to["base"]["median"], to["PEFT, mixed batch"]["median"]
        rows[0] = (names[0], f"{100 * share:.0f} %", _said(share >= SHARE))
        rows[1] = (names[1], f"{times:.2f} times", _said(times >= TIMES))
    if "many" in content:
        cost = {row["registered"]: row["ms_a_request"] for row in content["many"]["rows"]}
        times = cost[10_000] / cost[100]
        rows[2] = (names[2], f"{times:.2f} times", _said(times <= FLAT))
    return rows


def _said(holds: bool) -> str:
    return "yes" if holds else "no"
