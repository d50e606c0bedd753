"""The table of the section Experts across ranks of docs/validation.md, and what is claimed of it."""

from __future__ import annotations

from pathlib import Path

import common
from gfm import MISSING, code, plain, provenance, table
from tuning import Numbers

COMMAND = "python benchmarks/dispatch.py"
TIMES, LARGE = 3.0, 8
"""So many times faster than the twin it is to be at so many ranks."""


def dispatch(results: Path) -> str:
    """Latency by size and way, then bytes and memory against the formulas."""
    content = common.read_json(results / "dispatch.json")
    if not content:
        return MISSING + code(COMMAND)
    parts = [table(HEADS, [row for size in content["sizes"] for row in rows_of(size)])]
    parts.append(table(("", "message there, bytes", "back, bytes"), message_rows(content)))
    published = content["published"]
    sizes = (f"{published[name] / 2**20:.0f} MiB" for name in ("dispatch_bytes", "combine_bytes"))
    there, back = sizes
    parts.append(
        f"Buffers of the published deployment of 320 ranks by the same formula, computed and not "
        f"allocated: {there} of tokens and {back} of answers on each rank."
    )
    parts.append(provenance(content))
    return "\n\n".join(parts)


HEADS = ("EP, tokens x hidden size, way", "ms", "CPU ms of all ranks")
HEADS += ("times faster", "times less CPU", "buffers of a rank, MiB", "by the formula")


def rows_of(size: Numbers) -> list[tuple[str, ...]]:
    """The ways at one size."""
    rows = []
    for name, way in size["ways"].items():
        ratio, memory = size["ratio"].get(name), size["memory"].get(name)
        rows.append(
            (
                plain(f"{size['ranks']}, {size['tokens']} x {size['hidden']}, {name}"),
                *(over(way[clock], 1e3) for clock in ("wall_s", "cpu_s")),
                *((over(ratio[clock]) for clock in ("wall", "cpu")) if ratio else "--"),
                f"{memory['bytes'] / 2**20:.2f}" if memory else "-",
                f"{memory['formula_bytes'] / 2**20:.2f}" if memory else "-",
            )
        )
    return rows


def message_rows(content: Numbers) -> list[tuple[str, ...]]:
    """Bytes of a copy's messages, against the formula, by hidden size and wire."""
    rows = {}
    for size in content["sizes"]:
        for name, found in size["bytes"].items():
            cells = (
                f"{found[way]:,.0f} of {found[f'{way}_formula']:,.0f}"
                for way in ("dispatch", "combine")
            )
            rows[plain(f"hidden size {size['hidden']}, {name}")] = tuple(cells)
    return [(name, *cells) for name, cells in rows.items()]


def over(spread: Numbers, scale: float = 1.0) -> str:
    """The median, and the range of the repetitions."""
    median, low, high = (scale * spread[name] for name in ("median", "min", "max"))
    return f"{median:,.2f} ({low:,.2f} to {high:,.2f})"


def claims(results: Path, unmeasured: str) -> list[tuple[str, str, str]]:
    """Claim, measured, holds."""
    names = (
        "a token's messages and the buffers are those of the formula",
        f"dispatch and combine at {LARGE} ranks: at least {TIMES:g} times faster than the twin",
    )
    content = common.read_json(results / "dispatch.json")
    if not content:
        return [(name, unmeasured, unmeasured) for name in names]
    sizes = content["sizes"]
    equal = [
        found[way] == found[f"{way}_formula"]
        for size in sizes
        for found in size["bytes"].values()
        for way in ("dispatch", "combine")
    ]
    equal += [m["bytes"] == m["formula_bytes"] for size in sizes for m in size["memory"].values()]
    ratios = [
        size["ratio"]["silva, exact"]["wall"]["median"] for size in sizes if size["ranks"] == LARGE
    ]
    fast = bool(ratios) and min(ratios) >= TIMES
    said = f"{min(ratios):.1f} to {max(ratios):.1f} times" if ratios else unmeasured
    return [
        (names[0], f"{sum(equal)} of {len(equal)}", "yes" if all(equal) else "no"),
        (names[1], said, "yes" if fast else "no"),
    ]
