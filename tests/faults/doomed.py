"""Runs that kill themselves with SIGKILL at a chosen moment.

    python doomed.py FOLDER FOREST=MOMENT...

First a forest of every head policy is grown undisturbed. Then every FOREST=MOMENT is one process: it
tunes FOLDER/FOREST, or goes on where an earlier one of the same name was killed. A line for each
says the forest, the moment and the signal that ended it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny import settings

from silva.data import histogram
from silva.data.config import DataConfig
from silva.federation import cascade, harvest, report, state, tune
from silva.federation.run import Progress

POLICIES = ("tiered", "local")
"""The head policies of the forests: a forest is grown by the one that its name starts with."""


def config(folder: Path, forest: str) -> tune.TuneConfig:
    """A run in which clients are sampled, replies get lost, some join late, and all is measured.

    The first part of the forest's name is its head policy; "lanes" after it stands for two threads.
    """
    policy, _, kind = forest.partition("-")
    method = settings(
        head=policy,
        participation=0.7,
        dropout=0.2,
        late=0.2,
        measure_every=1,
        cluster__rounds=3,
        clustering__k_max=3,
    )
    return tune.TuneConfig(
        backbone=str(folder / "vit"),
        threads=2 if kind == "lanes" else 1,
        data=DataConfig(
            path=str(folder / "data.npz"),
            partition="patho_grouped(2)",
            clients=8,
            unseen=0.25,
            samples_per_client=12,
            test_per_client=6,
        ),
        federation=replace(method, controls=("head_only",)),
    )


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def draw_nothing(*_: Any, **__: Any) -> dict[str, bytes]:
    return {}


def without_plots() -> None:
    """Plots take most of a tiny run's time, and no test here looks at them."""
    report.render_plots = histogram.draw_histogram = draw_nothing


def at(stage: str, done: int) -> Callable[[Progress], None]:
    """A watcher of progress that kills when `done` parts of a stage are done, before the save."""

    def watch(progress: Progress) -> None:
        if (progress.stage, progress.done) == (stage, done):
            die()

    return watch


def after_clustering() -> None:
    real = cascade.find_clusters
    cascade.find_clusters = lambda run: (real(run), die())[0]


def before_first_checkpoint() -> None:
    tune.save_partition = die


def while_saving(stage: str, *, replaced: bool) -> None:
    """Between the new tensors and the new state.json, or right after it was replaced."""
    real = state.replace_text

    def write(path: Path, text: str) -> None:
        content = json.loads(text)["content"]
        if content["stage"] == stage and content["round"] == 2:
            if replaced:
                real(path, text)
            die()
        real(path, text)

    state.replace_text = write


def in_harvest() -> None:
    real, leaves = harvest._leaf, []

    def leaf(run: Any, client: str) -> Any:
        leaves.append(client)
        return die() if len(leaves) == 3 else real(run, client)

    harvest._leaf = leaf


def before_report() -> None:
    tune.write_report = die


def while_tidying() -> None:
    def remove_a_part(path: Path, *_: Any, **__: Any) -> None:
        if path.name.endswith(".run"):
            (path / "state.json").unlink()
            die()

    tune.shutil.rmtree = remove_a_part


WATCHERS = {
    "root": at("root", 2),
    "cluster": at("cluster", 2),
    "leaf": at("leaf", 4),
    "unseen": at("unseen", 2),
    "controls": at("unseen", 5),
}
TRAPS = {
    "start": before_first_checkpoint,
    "clustering": after_clustering,
    "saving-root": lambda: while_saving("root", replaced=False),
    "saved-root": lambda: while_saving("root", replaced=True),
    "saving-cluster": lambda: while_saving("cluster", replaced=False),
    "saved-cluster": lambda: while_saving("cluster", replaced=True),
    "saved-leaf": lambda: while_saving("leaf", replaced=True),
    "harvest": in_harvest,
    "report": before_report,
    "tidying": while_tidying,
}


def live(folder: Path, forest: str, moment: str) -> None:
    """One process's life; it comes back only when the moment never came."""
    TRAPS.get(moment, lambda: None)()
    watch = WATCHERS.get(moment, lambda progress: None)
    out = folder / forest
    if tune.run_folder(out).exists():
        tune.resume(out, watch)
    else:
        tune.tune(config(folder, forest), out, watch)


def main(folder: Path, jobs: list[str]) -> None:
    without_plots()
    for policy in POLICIES:
        tune.tune(config(folder, policy), folder / policy)
    for job in jobs:
        forest, _, moment = job.partition("=")
        child = os.fork()
        if child == 0:
            try:
                live(folder, forest, moment)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        print(forest, moment, ended, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
