"""The table of the first head without training in docs/validation.md."""

from __future__ import annotations

from pathlib import Path

import common
from gfm import MISSING, code, percent, provenance, table
from hilora import spread
from tuning import Numbers

RECIPES = ("tin32-sc-dir-50", "pacs-domain-dir-50")
KNOWN = ("nothing", "group", "own", "group and own")
HEADS = ("images a client", "logits", "temperature by seed")
HEADS += tuple(f"{who}: {what}" for who in ("seen", "unseen") for what in KNOWN)


def first_head(results: Path) -> str:
    """Accuracies by what is known of a client's labels, one table a recipe."""
    parts = [block for recipe in RECIPES if (block := recipe_block(results, recipe))]
    if not parts:
        return MISSING + code(f"python benchmarks/first_head.py --recipe {RECIPES[0]} --samples 50")
    return "\n\n".join(parts)


def recipe_block(results: Path, recipe: str) -> str:
    content = common.read_json(results / f"first-head-{recipe}.json")
    if not content:
        return ""
    rows = [
        row(samples, content["points"][samples], logits)
        for samples in sorted(content["points"], key=int)
        for logits in ("as it is", "calibrated")
    ]
    return "\n\n".join((f"**{recipe}**", table(HEADS, rows), provenance(content)))


def row(samples: str, runs: Numbers, logits: str) -> tuple[str, ...]:
    """One line: means and deviations over seeds, in percent."""
    seeds = sorted(runs, key=int)
    cooled = logits == "calibrated"
    temperatures = ", ".join(f"{runs[s]['temperature'] if cooled else 1:.2f}" for s in seeds)
    values = [
        percent(spread([runs[s]["accuracy"][logits][what][who] for s in seeds]))
        for who in ("seen", "unseen")
        for what in KNOWN
    ]
    return (samples, logits, temperatures, *values)
