"""Writes the tables of docs/validation.md from benchmarks/results/*.json, between its markers.

    python benchmarks/render.py          rewrite the tables
    python benchmarks/render.py --check  exit with 1 when they are out of date

The prose of the page is written by hand; a number stands in it only between markers.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import claims
import common
import render_experts
import render_first_head
import render_forest
import render_overlap
import render_reality
import render_serving
from gfm import MISSING, code, percent, plain, provenance, table
from tuning import TIERS, Numbers

PAGE = common.ROOT / "docs" / "validation.md"
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- /results: \2 -->)", re.DOTALL)
COMMITTED = "as committed"
ROWS = {
    "tiers.root": "root",
    "tiers.cluster": "root + cluster",
    "tiers.leaf": "root + cluster + leaf",
    "control.head_only": "control: frozen root, own head",
    "control.local_pair": "control: frozen root, own pair and head",
    "control.local_lora": "control: own pair and head, nothing shared",
}
UNSEEN_ROWS = {
    "unseen.root": "root",
    "unseen.zero_leaf": "root + routed cluster, no training",
    "unseen.after_1": "+ leaf, 1 epoch",
    "unseen.after_5": "+ leaf, 5 epochs",
}


def rewritten(page: str, results: Path) -> str:
    """`page` with every block between markers written anew."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n{BLOCKS[match[2]](results)}\n\n{match[3]}"

    unknown = [
        name for name in re.findall(r"<!-- results: ([\w-]+) -->", page) if name not in BLOCKS
    ]
    if unknown:
        raise SystemExit(f"{PAGE.name}: no such block: {', '.join(unknown)}")
    return BLOCK.sub(block, page)


def hilora(results: Path, recipe: str) -> str:
    """Accuracy by tier and control of one recipe; then variants that were tried."""
    content = common.read_json(results / f"hilora-{recipe}.json")
    usual = f"python benchmarks/hilora.py --recipe {recipe} --seeds 0 1 2"
    if not content or COMMITTED not in content["variants"]:
        return MISSING + code(usual)
    entry = content["variants"][COMMITTED]
    numbers, runs = entry["over_seeds"], entry["runs"]
    rows = [
        (name, *(percent(numbers.get(f"{key}.{figure}")) for figure in ("mean", "p10", "std")))
        for key, name in ROWS.items()
        if f"{key}.mean" in numbers
    ]
    parts = [table(("seen clients", "mean %", "p10 %", "std over clients %"), rows)]
    parts.append(spread_over_clients(numbers))
    rows = [(name, percent(numbers[key])) for key, name in UNSEEN_ROWS.items() if key in numbers]
    parts.append(table(("unseen clients", "mean %"), rows))
    names = [n for n in entry["differences"] if n.startswith("leaf - ")]
    parts.append(
        table(
            ("difference, points", "mean +- std over seeds", "each seed"),
            [
                (
                    plain(name),
                    percent(entry["differences"][name]),
                    ", ".join(f"{100 * v:+.1f}" for v in entry["differences"][name]["values"]),
                )
                for name in names
            ],
        )
    )
    parts.append(table(RUN_COLUMNS, [run_row(seed, runs[seed]) for seed in sorted(runs, key=int)]))
    parts.append(found_clusters(runs))
    parts.append(provenance(entry))
    others = variants(content)
    return "\n\n".join([*parts, *([others] if others else [])])


def spread_over_clients(numbers: Numbers) -> str:
    """How clients differ, relative to the mean and beside what their labels explain."""
    heads = ("spread over seen clients", "std / mean %", "correlation with few classes")
    rows = []
    for key, name in ROWS.items():
        found = [numbers.get(f"spread.{key.split('.')[1]}.{figure}") for figure in SPREAD]
        if all(found):
            relative, correlation, unexplained = found
            cell = f"{correlation['mean']:+.2f}"
            rows.append((name, percent(relative), cell, percent(unexplained)))
    return table((*heads, "std that labels do not explain %"), rows)


SPREAD = ("relative", "correlation", "unexplained")
RUN_COLUMNS = (
    *("seed", "clusters", "ARI", "routing agreement %", "rounds root + cluster + leaf"),
    *("seconds", "peak MB"),
)


def run_row(seed: str, run: Numbers) -> tuple[str, ...]:
    """What one run found and cost."""
    agreement, peak = run["routing_agreement"], run.get("peak_rss_bytes")
    return (
        seed,
        str(run["clusters"]),
        "-" if run["ari"] is None else f"{run['ari']:.2f}",
        "-" if agreement is None else f"{100 * agreement:.0f}",
        " + ".join(str(run["rounds"][tier]) for tier in TIERS),
        f"{sum(s for s in run['seconds'].values() if s):.0f}",
        f"{peak / 1e6:.0f}" if peak else "-",
    )


def found_clusters(runs: Numbers) -> str:
    """K and agreement with the true groups of every feature and rule, from the same distances."""
    by_rule: dict[tuple[str, str], list[Numbers]] = {}
    decided: dict[tuple[str, str], list[str]] = {}
    for seed in sorted(runs, key=int):
        for n, row in enumerate(runs[seed]["clustering"]):
            pair = (row["feature"], row["rule"])
            by_rule.setdefault(pair, []).append(row)
            if n == 0:  # the decision of the run; the others are what it did not take
                decided.setdefault(pair, []).append(seed)
    rows = [
        (
            *map(plain, pair),
            ", ".join(decided.get(pair, [])) or "-",
            ", ".join(str(row["k"]) for row in found),
            ", ".join(f"{row['ari']:.2f}" for row in found),
        )
        for pair, found in sorted(by_rule.items())
    ]
    heads = ("feature", "rule", "decided in seeds", "K by seed", "ARI by seed")
    return table(heads, rows)


def variants(content: Numbers) -> str:
    """What else was tried on a recipe: mean accuracy of the leaf, and its lead over controls."""
    rows = []
    for name, entry in sorted(content["variants"].items()):
        if name == COMMITTED:
            continue
        numbers = entry["over_seeds"]
        cells = [percent(numbers.get(f"{key}.mean")) for key in ROWS]
        rows.append((plain(name), str(len(entry["runs"])), *cells))
    if not rows:
        return ""
    heads = [ROWS[key].removeprefix("control: ") for key in ROWS]
    return "Other settings, mean % over clients:\n\n" + table(("settings", "seeds", *heads), rows)


def hilora_block(recipe: str) -> Callable[[Path], str]:
    return lambda results: hilora(results, recipe)


def clusters(results: Path) -> str:
    """K and agreement of every case by feature and rule."""
    content = common.read_json(results / "clusters.json")
    if not content or not content["cases"]:
        return MISSING + code("python benchmarks/clusters.py --seeds 0 1 2")
    return "\n\n".join(clusters_case(n, case) for n, case in sorted(content["cases"].items()))


def clusters_case(name: str, case: Numbers) -> str:
    seeds = [case["seeds"][seed] for seed in sorted(case["seeds"], key=int)]
    rows = []
    for n, first in enumerate(seeds[0]["rows"]):
        same = [run["rows"][n] for run in seeds]
        mark = "default" if first["chosen"] else ""
        rows.append(
            (
                *(plain(first["feature"]), plain(first["rule"]), mark),
                ", ".join(str(row["k"]) for row in same),
                ", ".join(f"{row['ari']:.2f}" for row in same),
            )
        )
    gaps = []
    for feature in seeds[0]["distances"]:
        cells = [
            mean_of(run["distances"][feature][side]["mean"] for run in seeds)
            for side in ("within", "between")
        ]
        gaps.append((plain(feature), *cells))
    title = f"**{name}**: {code(case['partition'])}, {seeds[0]['clients']} training clients, "
    return "\n\n".join(
        (
            f"{title}true groups: {seeds[0]['groups']}, root rounds: {seeds[0]['rounds']}",
            table(("feature", "rule", "", "K by seed", "ARI by seed"), rows),
            table(("feature", "mean distance within groups", "between groups"), gaps),
            provenance(case),
        )
    )


def mean_of(values: Iterable[float | None]) -> str:
    held = [value for value in values if value is not None]
    return f"{sum(held) / len(held):.3g}" if held else "-"


def overhead(results: Path) -> str:
    """Share of the rounds outside arithmetic, and where it goes."""
    content = common.read_json(results / "overhead.json")
    if not content:
        return MISSING + code("python benchmarks/overhead.py")
    names = ("seconds", "seconds_training", "seconds_forward", "seconds_outside")
    rows = []
    for tier in (*TIERS, "all"):
        row = content["tiers"][tier]
        cells = (f"{row[name]:.2f}" for name in names)
        rows.append((tier, *cells, f"{100 * row['share']:.1f}"))
    heads = ("tier", "seconds", "training", "other forward passes", "outside", "outside %")
    spent = {tier: content["tiers"][tier]["parts"] for tier in TIERS}
    every = sorted({name for found in spent.values() for name in found})
    parts = [
        (
            name,
            *(_share(spent[tier].get(name), content["tiers"][tier]["seconds"]) for tier in TIERS),
        )
        for name in every
    ]
    profile = []
    for row in content["profile"]:
        shares = (f"{100 * row[kind]:.1f}" for kind in ("own_share", "cumulative_share"))
        profile.append((plain(row["function"]), f"{row['calls']:,}", *shares))
    columns = ("function", "calls", "own %", "with callees %")
    tables = (
        table(heads, rows),
        table(("outside, % of the stage", *TIERS), parts),
        table(columns, profile),
    )
    return "\n\n".join((*tables, provenance(content)))


def _share(seconds: float | None, whole: float) -> str:
    return "-" if seconds is None else f"{100 * seconds / whole:.1f}"


def memory(results: Path) -> str:
    """Peak memory by number of clients."""
    content = common.read_json(results / "memory.json")
    if not content or not content["sizes"]:
        return MISSING + code("python benchmarks/memory.py")
    rows = []
    for size in sorted(content["sizes"], key=int):
        row = content["sizes"][size]
        rows.append(
            (
                f"{int(size):,}",
                f"{row['peak_rss_bytes'] / 1e6:.0f}",
                f"{row['wall_seconds']:.0f}",
                f"{row['folder_bytes'] / 1e6:.1f}",
            )
        )
    heads = ("clients", "peak memory, MB", "seconds", "forest on disk, MB")
    return "\n\n".join((table(heads, rows), provenance(content)))


def demo(results: Path) -> str:
    """Time and memory of the demo."""
    content = common.read_json(results / "demo.json")
    if not content:
        return MISSING + code("python benchmarks/demo.py --runs 3")
    rows = [
        (f"run {n}", f"{run['seconds']:.1f}", f"{run['peak_rss_bytes'] / 1e6:.0f}")
        for n, run in enumerate(content["runs"])
    ]
    median = content["median"]
    rows.append(("median", f"{median['seconds']:.1f}", f"{median['peak_rss_bytes'] / 1e6:.0f}"))
    return "\n\n".join((table(("", "seconds", "peak memory, MB"), rows), provenance(content)))


def simulator(results: Path) -> str:
    """Requests a second of the simulator."""
    content = common.read_json(results / "simulator_speed.json")
    if not content:
        return MISSING + code("python benchmarks/simulator_speed.py")
    rows = [
        (
            name,
            f"{row['requests']:,}",
            f"{row['simulated_s']:,.0f}",
            f"{row['cpu_s']:.1f}",
            f"{row['wall_s']:.1f}",
            f"{row['requests_per_cpu_s']:,.0f}",
            f"{row['slowest']:,.0f} - {row['fastest']:,.0f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        )
        for name, row in content["workloads"].items()
    ]
    heads = ("workload", "requests", "simulated seconds", "CPU seconds", "seconds")
    heads += ("requests a CPU second", "range", "peak memory, MB")
    return "\n\n".join((table(heads, rows), provenance(content)))


def samples(results: Path) -> str:
    """Mean and tail by images per client, with the picture."""
    content = common.read_json(results / "samples.json")
    if not content or not content["points"]:
        command = "python benchmarks/samples.py --samples 10 25 50 100 250 --seeds 0 1 2"
        return MISSING + code(command)
    points = content["points"]
    keys = {**ROWS, "unseen.zero_leaf": "unseen, no training"}
    rows = []
    for n in sorted(points, key=int):
        numbers = points[n]["over_seeds"]
        names = [key if key.startswith("unseen") else f"{key}.mean" for key in keys]
        rounds = points[n].get("rounds") or "the recipe's"
        rows.append((n, str(rounds), *(percent(numbers.get(name)) for name in names)))
    heads = (
        "images a client",
        "rounds",
        *(name.removeprefix("control: ") for name in keys.values()),
    )
    picture = "![Accuracy over images per client](images/samples-per-client.png)"
    return "\n\n".join((picture, table(heads, rows), provenance(content)))


BLOCKS: dict[str, Callable[[Path], str]] = {
    "claims": claims.render,
    "clusters": clusters,
    "overhead": overhead,
    "memory": memory,
    "demo": demo,
    "samples": samples,
    "first-head": render_first_head.first_head,
    "simulator": simulator,
    **{f"hilora-{recipe}": hilora_block(recipe) for recipe in claims.RECIPES},
    **render_serving.BLOCKS,
    "dispatch": render_experts.dispatch,
    "overlap": render_overlap.overlap,
    "forest-serving": render_forest.forest,
    "reality": render_reality.reality,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if old")
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    arguments = parser.parse_args()
    page = PAGE.read_text()
    fresh = rewritten(page, arguments.results)
    if arguments.check:
        print("up to date" if fresh == page else "out of date: run python benchmarks/render.py")
        return int(fresh != page)
    PAGE.write_text(fresh)
    print(f"written to docs/{PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
