"""The table of the section Planning against reality of docs/validation.md."""

from __future__ import annotations

from pathlib import Path

import common
from gfm import MISSING, code, plain, provenance, table

NAMES = {
    "ttft_p50_ms": "first token, median, ms",
    "tpot_p50_ms": "a further token, median, ms",
    "output_tokens_per_s": "answer tokens a second",
    "ttft_p99_ms": "first token, 99th percentile, ms",
    "tpot_p99_ms": "a further token, 99th percentile, ms",
}


def reality(results: Path) -> str:
    """Measured and simulated figures with their bars, then phases."""
    found = common.read_json(results / "reality.json")
    if not found:
        return MISSING + code("python benchmarks/reality.py")
    rows = [
        (
            plain(NAMES[each["name"]]),
            f"{each['measured']:,.1f}",
            f"{100 * each['spread']:.1f}",
            f"{each['simulated']:,.1f}",
            f"{100 * each['error']:+.1f}",
            f"{100 * each['bar']:.1f}",
            "yes" if each["holds"] else "no",
        )
        for each in found["figures"]
    ]
    heads = ("", "measured", "spread, %", "simulated", "error, %", "bar, %", "holds")
    phases = [
        (plain(name.replace("_", " ")), f"{row['measured_ms']:,.2f}", f"{row['simulated_ms']:,.2f}")
        for name, row in found["phases"].items()
    ]
    requests, failed = found["turns"][0]["requests"], sum(t["failed"] for t in found["turns"])
    trace = found["trace"]
    words = (
        f"{plain(found['model'])}: {len(found['turns'])} turns of {requests} requests, "
        f"{found['rate']:g} a second for {trace['duration_s']:g} s, prompts of "
        f"{code(trace['input'])} tokens, answers of {code(trace['output'])}; {failed} failed."
    )
    phase_heads = ("phase, median over requests, ms", "measured", "simulated")
    return "\n\n".join((words, table(heads, rows), table(phase_heads, phases), provenance(found)))
