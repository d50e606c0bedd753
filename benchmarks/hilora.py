"""HiLoRA against its controls: one recipe, several seeds, a table of means and differences.

    python benchmarks/hilora.py --recipe tin32-sc-dir-50 --seeds 0 1 2 --jobs 2

Every seed is one `silva tune` of one thread. Accuracies are fractions of a client's test images;
"mean", "p10" and "std" are over clients, "+-" is the standard deviation over seeds. A variant
(`--set name=value`, repeatable) is kept beside the recipe as it stands, in one file a recipe.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from tuning import TIERS, UNSEEN, Job, Numbers, collect, public, run_all

FIGURES = ("mean", "p10", "std")
UNITS = {"accuracy": "fraction", "seconds": "s", "bytes": "B", "peak_rss_bytes": "B"}


def over_seeds(runs: Sequence[Numbers]) -> Numbers:
    """Mean and standard deviation (sample) of every number of the runs, by dotted name."""
    flat = [dict(flatten(run)) for run in runs]
    names = [name for name in flat[0] if all(name in each for each in flat)] if flat else []
    return {name: spread([each[name] for each in flat]) for name in names}


def spread(values: Sequence[float]) -> Numbers:
    """Mean, sample standard deviation (null for one value) and the values themselves."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation, "values": list(values)}


def flatten(tree: Any, name: str = "") -> Iterable[tuple[str, float]]:
    """The numbers of nested mappings as ("tiers.root.mean", 0.5); lists and texts are left out."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, f"{name}.{key}" if name else key)
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool):
        yield name, float(tree)


def differences(runs: Sequence[Numbers]) -> Numbers:
    """What the claims are about, each seed against itself: positive is in HiLoRA's favour.

    leaf - control in mean and tail (p10); each tier - the one above; the fall of the spread over
    clients; unseen clients with zero leaf - with the root.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        tiers, unseen = run["tiers"], run["unseen"]
        terms = {}
        for control, values in run["control"].items():
            for figure in ("mean", "p10"):
                terms[f"leaf - {control}, {figure}"] = (tiers["leaf"][figure], values[figure])
        for upper, lower in (("root", "cluster"), ("cluster", "leaf")):
            for figure in ("mean", "p10"):
                pair = tiers[lower][figure], tiers[upper][figure]
                terms[f"{lower} - {upper}, {figure}"] = pair
            terms[f"std {upper} - {lower}"] = tiers[upper]["std"], tiers[lower]["std"]
        terms["unseen: zero leaf - root"] = unseen["zero_leaf"], unseen["root"]
        for name, (a, b) in terms.items():
            if a is not None and b is not None:
                found.setdefault(name, []).append(a - b)
    return {name: spread(values) for name, values in found.items() if len(values) == len(runs)}


def variant_name(settings: Sequence[str]) -> str:
    """What a set of changes to a recipe is filed under."""
    return " ".join(public(settings)) or "as committed"


def store(path: Path, jobs: Sequence[Job], circumstances: Numbers) -> Numbers:
    """Put the finished jobs (of one recipe and variant) into the recipe's file; returns the entry.

    Seeds of earlier calls stay as long as they were run under equal settings and weights.
    """
    first = jobs[0]
    content = common.read_json(path) or {"benchmark": "hilora", "recipe": first.recipe}
    variants = content.setdefault("variants", {})
    name = variant_name(first.settings)
    entry = variants.get(name, {})
    if entry.get("digest") != first.digest:
        entry = {}
    runs = entry.get("runs", {}) | {str(job.seed): collect(job) for job in jobs}
    numbers = [runs[seed] for seed in sorted(runs, key=int)]
    variants[name] = {
        **circumstances,
        "command": command(first.recipe, sorted(runs, key=int), first.settings),
        "digest": first.digest,
        "settings": public(first.settings),
        "threads": first.threads,
        "units": UNITS,
        "runs": runs,
        "over_seeds": over_seeds(numbers),
        "differences": differences(numbers),
    }
    common.write_json(path, content)
    return dict(variants[name])


def command(recipe: str, seeds: Sequence[str], settings: Sequence[str]) -> str:
    """The line that makes a result."""
    words = ["python benchmarks/hilora.py --recipe", recipe, "--seeds", *seeds]
    return " ".join((*words, *(f"--set {s}" for s in public(settings))))


def print_entry(title: str, entry: Numbers) -> None:
    """The table of one recipe and variant."""
    from rich.console import Console
    from rich.table import Table

    numbers, console = entry["over_seeds"], Console(width=100)
    console.print(f"{title}\n{len(entry['runs'])} seeds, percent", style="bold")
    table = Table()
    for column in ("", *FIGURES):
        table.add_column(column, justify="right" if column else "left")
    first = next(iter(entry["runs"].values()))
    rows = [f"tiers.{tier}" for tier in TIERS] + [f"control.{name}" for name in first["control"]]
    for row in rows:
        cells = [shown(numbers.get(f"{row}.{figure}")) for figure in FIGURES]
        if any(cells):
            table.add_row(row.replace(".", " "), *cells)
    for name in UNSEEN:
        if f"unseen.{name}" in numbers:
            table.add_row(f"unseen {name}", shown(numbers[f"unseen.{name}"]))
    for name, value in entry["differences"].items():
        table.add_row(name, shown(value), style="dim")
    console.print(table)
    for seed, run in sorted(entry["runs"].items(), key=lambda item: int(item[0])):
        seconds = sum(s for s in run["seconds"].values() if s)
        ari = "-" if run["ari"] is None else f"{run['ari']:.2f}"
        agreement = run["routing_agreement"]
        routed = "-" if agreement is None else f"{agreement:.0%}"
        console.print(
            f"seed {seed}: {run['clusters']} clusters, adjusted Rand index {ari}, "
            f"routing agreement {routed}, rounds {run['rounds']}, {seconds:.0f} s"
        )


def shown(value: Numbers | None) -> str:
    """Mean and deviation over seeds, in percent."""
    if value is None:
        return ""
    deviation = "" if value["std"] is None else f" +- {100 * value['std']:.1f}"
    return f"{100 * value['mean']:.1f}{deviation}"


def make_jobs(
    arguments: argparse.Namespace, recipe: str, settings: Sequence[str], seeds: Sequence[int]
) -> list[Job]:
    """One job a seed."""
    data = arguments.data or common.data_file(arguments.data_dir, recipe)
    return [
        Job(recipe, seed, tuple(settings), data.resolve(), arguments.work.resolve())
        for seed in seeds
    ]


def measure(
    jobs: Sequence[Job], at_once: int, path: Path, *, again: bool = False
) -> tuple[Numbers, list[str]]:
    """Run the jobs of one variant; the file at `path` is up to date after each of them."""
    circumstances, finished = common.facts(), []
    entry: Numbers = {}

    def keep(job: Job) -> None:
        finished.append(job)
        entry.update(store(path, finished, circumstances))
        print(f"finished {job.recipe} seed {job.seed}", file=sys.stderr, flush=True)

    failures = run_all(jobs, at_once, keep, again=again)
    return entry, failures


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark that tunes by recipe."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--data", type=Path, help="data file instead of the recipe's own")
    parser.add_argument(
        "--again", action="store_true", help="run what is done once more: the code has changed"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the recipe, e.g. --set federation.rounds=20",
    )


def main() -> int:
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recipe", required=True, help="a name in recipes/, without .toml")
    add_options(parser)
    arguments = parser.parse_args()
    if not (common.RECIPES / f"{arguments.recipe}.toml").is_file():
        parser.error(f"no recipe {arguments.recipe}")
    print(common.heading(common.facts()))
    print(f"seeds     {arguments.seeds}\nunits     accuracies in percent of the test images\n")
    jobs = make_jobs(arguments, arguments.recipe, arguments.settings, arguments.seeds)
    path = arguments.results / f"hilora-{arguments.recipe}.json"
    entry, failures = measure(jobs, arguments.jobs, path, again=arguments.again)
    if entry:
        print_entry(f"{arguments.recipe} ({variant_name(arguments.settings)})", entry)
        print(f"written to {path}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
