"""What silva claims, each checked against the result files: in how many seeds does it hold?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import claims_serving
import common
import render_experts
import render_forest
import render_overlap
from gfm import table
from tuning import Numbers

Test = Callable[[Numbers], bool]

PER_RUN: dict[str, Test] = {
    "mean accuracy rises: root < root + cluster < root + cluster + leaf": lambda run: _rises(
        [run["tiers"][tier]["mean"] for tier in ("root", "cluster", "leaf")]
    ),
    "the spread over clients falls at every tier": lambda run: _rises(
        [run["tiers"][tier]["std"] for tier in ("leaf", "cluster", "root")]
    ),
    "unseen clients without training beat the root": lambda run: _rises(
        [run["unseen"]["root"], run["unseen"]["zero_leaf"]]
    ),
    "leaf beats frozen root + own head, mean": lambda run: _beats(run, "head_only", "mean"),
    "leaf beats frozen root + own head, tail": lambda run: _beats(run, "head_only", "p10"),
    "leaf beats frozen root + own pair, mean": lambda run: _beats(run, "local_pair", "mean"),
    "leaf beats frozen root + own pair, tail": lambda run: _beats(run, "local_pair", "p10"),
    "leaf beats Local-LoRA, mean": lambda run: _beats(run, "local_lora", "mean"),
    "leaf beats Local-LoRA, tail": lambda run: _beats(run, "local_lora", "p10"),
}
RECIPES = ("tin32-sc-dir-50", "tin32-sc-dir-250", "pacs-domain-dir-50", "pacs-domain-dir-250")
UNMEASURED = "not measured yet"


def render(results: Path) -> str:
    """Two tables: the claims on accuracy by recipe, and the others with what was measured."""
    rows = []
    entries = {recipe: _entry(results, recipe) for recipe in RECIPES}
    for claim, holds in PER_RUN.items():
        cells = [_count([holds(run) for run in runs]) for runs in entries.values()]
        rows.append((claim, *cells))
    accuracy = table(("claim, seeds in which it holds", *RECIPES), rows)
    others = (_clusters(results), _demo(results), _memory(results), _overhead(results))
    others += (list(claims_serving.rows(results, UNMEASURED)),)
    others += (render_experts.claims(results, UNMEASURED),)
    others += (render_overlap.claims(results, UNMEASURED),)
    others += (render_forest.claims(results, UNMEASURED),)
    return f"{accuracy}\n\n" + table(
        ("claim", "measured", "holds"), [row for group in others for row in group]
    )


def _entry(results: Path, recipe: str) -> list[Numbers]:
    content = common.read_json(results / f"hilora-{recipe}.json") or {"variants": {}}
    runs = content["variants"].get("as committed", {}).get("runs", {})
    return [runs[seed] for seed in sorted(runs, key=int)]


def _rises(values: list[float | None]) -> bool:
    held = [value for value in values if value is not None]
    return len(held) == len(values) and all(a < b for a, b in pairwise(held))


def _beats(run: Numbers, control: str, figure: str) -> bool:
    other = run["control"].get(control, {}).get(figure)
    return _rises([other, run["tiers"]["leaf"][figure]])


def _count(outcomes: list[bool]) -> str:
    return f"{sum(outcomes)} of {len(outcomes)}" if outcomes else UNMEASURED


def _clusters(results: Path) -> list[tuple[str, str, str]]:
    wanted: dict[str, tuple[str, Test]] = {
        "planted-4": ("planted(4): K = 4, ARI 1.0", lambda r: r["k"] == 4 and r["ari"] == 1.0),
        "planted-1": ("planted(1): K = 1", lambda r: r["k"] == 1),
        "sc-dir-24x100": (
            "sc_dir in six groups, 24 clients of 100 images: ARI at least 0.9".replace("_", "\\_"),
            lambda r: r["ari"] >= 0.9,
        ),
    }
    content = common.read_json(results / "clusters.json") or {"cases": {}}
    rows = []
    for name, (claim, holds) in wanted.items():
        seeds = content["cases"].get(name, {}).get("seeds", {})
        runs = [seeds[seed] for seed in sorted(seeds, key=int)]
        measured = ", ".join(f"K {run['k']}, ARI {run['ari']:.2f}" for run in runs)
        rows.append((claim, measured or UNMEASURED, _count([holds(run) for run in runs])))
    return rows


def _demo(results: Path) -> list[tuple[str, str, str]]:
    claim = "silva demo without texts: at most 4 minutes and 2 GB on two cores"
    content = common.read_json(results / "demo.json")
    if not content:
        return [(claim, UNMEASURED, UNMEASURED)]
    median, limits = content["median"], content["limits"]
    measured = f"{median['seconds']:.0f} s, {median['peak_rss_bytes'] / 1e9:.2f} GB"
    return [(claim, measured, _yes(all(median[name] <= limits[name] for name in limits)))]


def _memory(results: Path) -> list[tuple[str, str, str]]:
    claim = "1,000 clients of 5 images: less than 3 GB"
    content = common.read_json(results / "memory.json")
    row = (content or {"sizes": {}})["sizes"].get("1000")
    if not content or not row:
        return [(claim, UNMEASURED, UNMEASURED)]
    peak = row["peak_rss_bytes"]
    return [(claim, f"{peak / 1e9:.2f} GB", _yes(peak < content["limit_bytes"]))]


def _overhead(results: Path) -> list[tuple[str, str, str]]:
    claim = "at most 10 % of a round outside forward, backward and optimiser steps"
    content = common.read_json(results / "overhead.json")
    if not content:
        return [(claim, UNMEASURED, UNMEASURED)]
    shares = {tier: content["tiers"][tier]["share"] for tier in ("root", "cluster", "leaf")}
    measured = ", ".join(f"{tier} {100 * share:.1f} %" for tier, share in shares.items())
    return [(claim, measured, _yes(max(shares.values()) <= 0.1))]


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
