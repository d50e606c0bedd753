"""Seconds of a tier outside forward passes, backward passes and optimiser steps, as a share.

    python benchmarks/overhead.py

One short run of a recipe, clients one after another in one thread. What counts is the whole stage by
the wall clock: reading images, merging weights, checkpoints and leaves on disk too. Of these, forward
and backward passes and optimiser steps of training are clocked by the clients themselves, forward
passes without training (accuracy, the first head) and all other parts by clocks around functions. What
torch imports when its first optimiser is made belongs to the start of a process, not to a round, and
comes before. The profile of functions is of another run, since profiling slows Python down.
"""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    from silva.federation.material import image_material
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
    return make_run(
        federation, config.seed, image_material(backbone, dataset), partition, store, state
    )


class Parts:
    """Seconds by part of a stage, each without the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """What is spent inside counts for `part`, and no longer for the part around it."""
        self._count()
        self._open.append(part)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def around(self, places: Sequence[tuple[object, str, str]]) -> Iterator[None]:
        """Clocks around functions, each a module or class, the function's name and its part."""
        plain = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for (owner, name, function), (_, _, part) in zip(plain, places, strict=True):
            setattr(owner, name, self._clocked(function, part))
        try:
            yield
        finally:
            for owner, name, function in plain:
                setattr(owner, name, function)

    def _clocked(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.inside(part):
                return function(*arguments, **named)

        return timed


FORWARD, CLIENT = "forward passes without training", "client"


def places() -> list[tuple[object, str, str]]:
    """What `Parts` clocks."""
    from silva.federation import classification, leaves, rounds
    from silva.federation.run import Run
    from silva.federation.runtime import local
    from silva.federation.state import RunFolder

    return [
        (classification, "features_of", FORWARD),
        (local, "train_client", CLIENT),
        (local.ClientImages, "_load", "images"),
        (Run, "merge", "merging weights"),
        (Run, "work", "tasks"),
        (Run, "fresh_pairs", "tasks"),
        (Run, "believes", "checks of replies"),
        (rounds, "aggregate", "aggregation"),
        (rounds, "relative_change", "stop rule"),
        (rounds, "remember_bases", "running means"),
        (leaves, "_record_overlaps", "overlap"),
        (RunFolder, "save", "checkpoints"),
        (RunFolder, "put", "files of clients"),
        (RunFolder, "get", "files of clients"),
    ]


def grow(run: Run, parts: dict[str, Parts] | None = None) -> None:
    """The three tiers; no unseen clients, no controls. `parts` gets the clocks of every stage."""
    from silva.federation.cascade import grow_clusters, grow_leaves, grow_root, make_clusters

    for stage in (grow_root, make_clusters, grow_clusters, grow_leaves):
        name, clocks = run.state.stage, Parts()
        with run.timed(name):
            if parts is None:
                stage(run)
            else:
                with clocks.around(places()), clocks.inside("rest"):
                    stage(run)
                parts[name] = clocks


def shares(run: Run, parts: Mapping[str, Parts]) -> Numbers:
    """By tier: seconds of the stage, of arithmetic in it, share of the rest, and the rest by part."""
    found: Numbers = {}
    for tier in TIERS:
        rows = [row for row in run.state.record.rounds if row.stage == tier]
        training = sum(row.seconds_compute for row in rows)
        spent = dict(parts[tier].seconds)
        forward = spent.pop(FORWARD, 0.0)
        # With one cluster there is no cluster tier, and no client in it.
        spent[CLIENT] = spent.get(CLIENT, 0.0) - training
        found[tier] = _row(sum(spent.values()), training, forward) | {"parts": spent}
    outside, training, forward = (
        sum(found[tier][name] for tier in TIERS)
        for name in ("seconds_outside", "seconds_training", "seconds_forward")
    )
    return {**found, "all": _row(outside, training, forward)}


def _row(outside: float, training: float, forward: float) -> Numbers:
    whole = outside + training + forward
    return {
        "seconds": whole,
        "seconds_training": training,
        "seconds_forward": forward,
        "seconds_outside": outside,
        "share": outside / whole,
    }


def profile(run: Run) -> list[Numbers]:
    """The functions with the most time of their own, of the three tiers together."""
    profiler = cProfile.Profile()
    profiler.enable()
    grow(run)
    profiler.disable()
    return profile_rows(profiler)


def profile_rows(profiler: cProfile.Profile | str) -> list[Numbers]:
    """The functions with the most time of their own, and those of silva with the most in all.

    `profiler` may be the path of a file of statistics.
    """
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
    torch.optim.AdamW([torch.zeros(1)])  # imports hundreds of modules, once a process
    circumstances = common.facts()
    print(common.heading(circumstances))
    print("seed      0\nunits     seconds; shares of 1\n")
    data = common.data_file(arguments.data_dir, arguments.recipe)
    folder = arguments.work / "overhead" / f"{arguments.recipe}.run"
    folder.parent.mkdir(parents=True, exist_ok=True)
    clocked, parts = open_run(arguments.recipe, data, arguments.settings, folder), {}
    grow(clocked, parts)
    tiers = shares(clocked, parts)
    for tier, row in tiers.items():
        print(f"{tier:8} {row['seconds']:8.2f} s, outside arithmetic {row['share']:.1%}")
        for part, seconds in sorted(row.get("parts", {}).items(), key=lambda item: -item[1]):
            print(f"{'':8} {seconds:8.2f} s, {seconds / row['seconds']:6.1%}  {part}")
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
