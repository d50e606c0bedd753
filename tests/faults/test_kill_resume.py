"""Kill -9 at any moment, then resume: the same forest as the run that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from doomed import POLICIES, TRAPS, WATCHERS, draw_nothing
from tiny import save_backbone, save_data

from silva.adapters.forest import Forest
from silva.data import histogram
from silva.errors import RunError
from silva.federation import report
from silva.federation.tune import resume, run_folder

HERE = Path(__file__).parent
ONCE = [*WATCHERS, *TRAPS]
AGAIN = {
    "tiered-thrice": ("root", "cluster", "leaf"),
    "tiered-late": ("clustering", "unseen", "harvest", "report"),
    "local-heads": ("saving-root", "saved-cluster"),
    "tiered-lanes": ("root", "cluster", "leaf"),
}
"""Forests that are killed again and again, each time by a process that goes on from the last. That
with lanes works with two clients side by side; the forest it is compared with did without."""


def jobs() -> list[str]:
    once = [f"tiered-{moment}={moment}" for moment in ONCE]
    return once + [f"{name}={moment}" for name, moments in AGAIN.items() for moment in moments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, backbone, the forest of an undisturbed run by policy, and runs that were killed."""
    folder = tmp_path_factory.mktemp("kill")
    save_backbone(folder / "vit")
    save_data(folder / "data.npz")
    paths = os.pathsep.join([str(HERE.parent / "federation"), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HERE / "doomed.py"), str(folder), *jobs()],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
    assert [int(ended) for _, _, ended in lines] == [signal.SIGKILL] * len(jobs()), done.stderr
    return folder


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "render_plots", draw_nothing)
    monkeypatch.setattr(histogram, "draw_histogram", draw_nothing)


def content(forest: Path) -> dict[str, bytes]:
    """Every file of a forest by its relative path, without the report."""
    return {
        str(path.relative_to(forest)): path.read_bytes()
        for path in sorted(forest.rglob("*"))
        if path.is_file() and "report" not in path.relative_to(forest).parts
    }


def without_times(forest: Path) -> dict[str, Any]:
    """What the report says, apart from seconds."""
    summary = json.loads((forest / "report" / "summary.json").read_text())
    rounds = pq.read_table(forest / "report" / "rounds.parquet").to_pylist()
    return {
        "summary": {k: v for k, v in summary.items() if k != "seconds"},
        "rounds": [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rounds],
        "metrics": pq.read_table(forest / "report" / "metrics.parquet").to_pylist(),
        "partition": (forest / "report" / "partition.json").read_bytes(),
    }


def comparable(forest: Path) -> str:
    """`without_times` as text, in which a NaN equals a NaN."""
    return repr(without_times(forest))


@pytest.mark.parametrize("name", [*(f"tiered-{moment}" for moment in ONCE), *AGAIN])
def test_a_killed_run_ends_as_the_undisturbed_one(folder: Path, name: str) -> None:
    forest, reference = folder / name, folder / name.partition("-")[0]
    assert run_folder(forest).is_dir()
    grown = resume(forest)
    assert content(forest) == content(reference)
    assert comparable(forest) == comparable(reference)
    assert grown.manifest.objects == Forest.load(reference).manifest.objects
    assert forest.is_dir() and not run_folder(forest).exists()


def test_nothing_but_forests_and_runs_is_left_beside_them(folder: Path) -> None:
    """Kills in the middle of writing a forest included: `run_folder` is removed, and all is in it."""
    names = {*POLICIES, *(job.partition("=")[0] for job in jobs())}
    known = {"vit", "data.npz", *names, *(f"{name}.run" for name in names)}
    assert {path.name for path in folder.iterdir()} <= known


def test_the_undisturbed_runs_are_worth_comparing(folder: Path) -> None:
    tiered, local = (Forest.load(folder / policy) for policy in POLICIES)
    assert tiered.clusters == ["cluster-0", "cluster-1"] and len(tiered.clients) == 8
    assert tiered.verify().sound and local.verify().sound
    assert set(tiered.manifest.objects) != set(local.manifest.objects)
    rows = without_times(folder / "tiered")
    stages = {"head", "root", "clustering", "labels", "cluster", "leaf", "unseen"}
    assert {r["stage"] for r in rows["rounds"]} == stages
    assert sum(r["dropped"] for r in rows["rounds"]) > 0
    assert {"root", "cluster", "leaf", "zero_leaf", "head_only"} <= {
        r["tier"] for r in rows["metrics"]
    }


def test_a_finished_run_cannot_be_resumed(folder: Path) -> None:
    with pytest.raises(RunError, match=r"no unfinished run lies here.*--resume"):
        resume(folder / "tiered")
