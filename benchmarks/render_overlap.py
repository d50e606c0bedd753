"""The table of two microbatches in docs/validation.md, and what is claimed of it."""

from __future__ import annotations

from pathlib import Path

import common
from gfm import MISSING, code, plain, provenance, table
from render_experts import over
from tuning import Numbers

COMMAND = "python benchmarks/overlap.py"
TIMES, LOSS = 1.4, 0.02
"""So many times faster two microbatches are to be on the slow wire; what the rule may lose else."""
HEADS = (
    "sequences of each rank, wire",
    "one microbatch, tokens/s",
    "two, times",
    "by the rule, times",
)
HEADS += ("steps split by the rule in its last turn",)


def overlap(results: Path) -> str:
    """Tokens a second of each form, by size and wire."""
    content = common.read_json(results / "overlap.json")
    if not content:
        return MISSING + code(COMMAND)
    rows = [row for size in content["sizes"] for row in rows_of(size)]
    said = [
        f"{size['ranks']} ranks, {size['context']:,} tokens a sequence, {size['steps']} steps a turn"
        for size in content["sizes"]
    ]
    worst = max(size["worst_difference"] for size in content["sizes"])
    note = (
        f"{'; '.join(dict.fromkeys(said))}. Hidden states of a split step differ from those of a whole "
        f"one by at most {worst:.1e} of their largest value."
    )
    return "\n\n".join((table(HEADS, rows), note, provenance(content)))


def rows_of(size: Numbers) -> list[tuple[str, ...]]:
    """Both wires at one size."""
    rows = []
    for found in size["delays"]:
        wire = f"{1e3 * found['delay_s']:g} ms later" if found["delay_s"] else "at once"
        cells = (over(found["ratio"][form]) for form in ("two", "rule"))
        split = f"{100 * found['rule_split'][-1]:.0f} %"
        one = over(found["tokens_per_s"]["one"])
        rows.append((plain(f"{size['sequences']}, {wire}"), one, *cells, split))
    return rows


def claims(results: Path, unmeasured: str) -> list[tuple[str, str, str]]:
    """Claim, measured, holds."""
    content = common.read_json(results / "overlap.json")
    names = (
        f"messages 2 ms late, where it pays most: two microbatches {TIMES:g} times faster than one",
        f"messages at once: the cost rule loses at most {100 * LOSS:.0f} %, at every size",
    )
    if not content:
        return [(name, unmeasured, unmeasured) for name in names]
    sizes = content["sizes"]
    best, least = max(ratios(sizes, "two", 0.002)), min(ratios(sizes, "rule", 0.0))
    return [
        (names[0], f"{best:.2f} times", "yes" if best >= TIMES else "no"),
        (names[1], f"{least:.3f} times or more", "yes" if least >= 1 - LOSS else "no"),
    ]


def ratios(sizes: Numbers, form: str, delay_s: float) -> list[float]:
    """Of a form's tokens a second to those of one microbatch, by size; -1 where it was not tried."""
    found = [delay for size in sizes for delay in size["delays"] if delay["delay_s"] == delay_s]
    return [each["ratio"][form]["median"] for each in found] or [-1.0]
