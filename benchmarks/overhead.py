"""Seconds of a round outside forward passes, backward passes and optimiser steps, as a share.

    python benchmarks/overhead.py

One short run of a recipe, clients one after another in one thread. The share comes from the run's
own clocks (rounds.parquet); the profile says where the rest goes. Profiling slows Python down, so
the run that is profiled is another one than the run that is clocked.
"""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import shutil
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from tuning import TIERS, Numbers, assignment, public

if TYPE_CHECKING:
    from silva.federation.run import Run

ROUNDS = {"root": 5, "cluster": 5, "leaf": 5}
"""Rounds of each tier; images are decoded in the first root round, and its time counts too."""
TOP = 15


def open_run(recipe: str, data: Path, settings: list[str], folder: Path) -> Run:
    """A run of `recipe` at its beginning, one lane, in a new folder."""
    from silva.config import build, overlay, read_toml
    from silva.data.open import open_dataset
    from silva.federation.assembly import deal, make_run
    from silva.federation.state import RunFolder, RunState
    from silva.federation.tune import TuneConfig, with_rounds
    from silva.models.registry import load_backbone

    flags: dict[str, Any] = {"data.path": str(data), "federation.measure_every": 0}
    flags |= {f"federation.{tier}.rounds": count for tier, count in ROUNDS.items()}
    flags |= {"federation.clustering.rule": "fixed", "federation.clustering.k": 6}
    flags |= dict(map(assignment, settings))
    tree = overlay(read_toml(common.RECIPES / f"{recipe}.toml"), flags)
    config = build(TuneConfig, tree, recipe)
    backbone, dataset = load_backbone(config.backbone), open_dataset(config.data.path)
    partition = deal(config.data, config.seed, dataset)
    shutil.rmtree(folder, ignore_errors=True)
    store = RunFolder(folder, [c.name for c in partition.clients])
    store.create({})
    federation, state = with_rounds(config.federation), RunState()
    return make_run(federation, config.seed, backbone, dataset, partition, store, state)


def grow(run: Run) -> None:
    """The three tiers; no unseen clients, no controls."""
    from silva.federation.cascade import grow_clusters, grow_leaves, grow_root, make_clusters

    for stage in (grow_root, make_clusters, grow_clusters, grow_leaves):
        with run.timed(run.state.stage):
            stage(run)


def shares(run: Run) -> Numbers:
    """By tier: seconds of the rounds, seconds of arithmetic, share of the rest; and of the stage.

    A stage also measures accuracy and writes checkpoints between its rounds.
    """
    found: Numbers = {}
    for tier in TIERS:
        rows = [row for row in run.state.record.rounds if row.stage == tier]
        seconds = sum(row.seconds for row in rows)
        compute = sum(row.seconds_compute for row in rows)
        each = [1 - row.seconds_compute / row.seconds for row in rows if row.seconds > 0]
        found[tier] = {
            "rows": len(rows),
            "seconds": seconds,
            "seconds_compute": compute,
            "share": 1 - compute / seconds,
            "median_share": statistics.median(each),
            "stage_seconds": run.state.record.seconds[tier],
        }
    total = sum(found[tier]["seconds"] for tier in TIERS)
    compute = sum(found[tier]["seconds_compute"] for tier in TIERS)
    return {
        **found,
        "all": {"seconds": total, "seconds_compute": compute, "share": 1 - compute / total},
    }


def profile(run: Run) -> list[Numbers]:
    """The functions with the most time of their own, of the three tiers together."""
    profiler = cProfile.Profile()
    profiler.enable()
    grow(run)
    profiler.disable()
    return profile_rows(profiler)


def profile_rows(profiler: cProfile.Profile) -> list[Numbers]:
    """The functions with the most time of their own, and those of silva with the most in all."""
    stats = pstats.Stats(profiler, stream=io.StringIO())
    total = stats.total_tt  # type: ignore[attr-defined]
    rows = []
    for (file, line, name), (_, calls, own, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        rows.append(
            {
                "function": _place(file, line, name),
                "calls": calls,
                "own_share": own / total,
                "cumulative_share": cumulative / total,
            }
        )
    rows.sort(key=lambda row: -row["own_share"])
    silva = [r for r in rows if r["function"].startswith("silva/")]
    silva.sort(key=lambda row: -row["cumulative_share"])
    return [*rows[:TOP], *(r for r in silva[: 2 * TOP] if r not in rows[:TOP])]


def _place(file: str, line: int, name: str) -> str:
    """silva/federation/rounds.py federated_round; built-in functions by their name alone."""
    if not line:
        return name
    parts = Path(file).parts
    start = max((n for n, p in enumerate(parts) if p in ("silva", "site-packages")), default=-2)
    start += parts[start] == "site-packages" if start >= 0 else 0
    return f"{'/'.join(parts[start:])} {name}"


def main() -> int:
    os.environ.update(common.environment(1))
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--recipe", default="tin32-sc-dir-50")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    circumstances = common.facts()
    print(common.heading(circumstances))
    print("seed      0\nunits     seconds; shares of 1\n")
    data = common.data_file(arguments.data_dir, arguments.recipe)
    folder = arguments.work / "overhead" / f"{arguments.recipe}.run"
    folder.parent.mkdir(parents=True, exist_ok=True)
    clocked = open_run(arguments.recipe, data, arguments.settings, folder)
    grow(clocked)
    tiers = shares(clocked)
    for tier, row in tiers.items():
        median = f", median round {row['median_share']:.1%}" if "median_share" in row else ""
        print(f"{tier:8} {row['seconds']:8.2f} s, outside arithmetic {row['share']:.1%}{median}")
    functions = profile(open_run(arguments.recipe, data, arguments.settings, folder))
    for row in functions:
        print(f"{row['own_share']:7.1%} {row['cumulative_share']:7.1%}  {row['function']}")
    shutil.rmtree(folder)
    words = ["python benchmarks/overhead.py --recipe", arguments.recipe]
    words += [f"--set {setting}" for setting in public(arguments.settings)]
    path = arguments.results / "overhead.json"
    result = {"benchmark": "overhead", "command": " ".join(words), "seed": 0, "threads": 1}
    result |= {"recipe": arguments.recipe, "rounds": ROUNDS, "units": "s; shares of 1"}
    common.write_json(path, {**result, **circumstances, "tiers": tiers, "profile": functions})
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
