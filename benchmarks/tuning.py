"""Tuning runs as jobs: each a `silva tune` in a folder of its own that survives kills.

A job that is done is never run again, an unfinished one is resumed; then its report is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow.parquet as pq
from label_spread import label_spread

TIERS = ("root", "cluster", "leaf")
UNSEEN = ("root", "zero_leaf", "after_1", "after_5")
STATUS_S = 60.0
"""Seconds between two lines about runs that are under way."""

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One tuning run. Equal jobs share a folder, so that a finished one is never run again."""

    recipe: str
    seed: int
    settings: tuple[str, ...]
    data: Path
    work: Path
    threads: int = 1

    @property
    def digest(self) -> str:
        """Of all that decides the outcome but seed and code: every setting, data, weights."""
        about = [self.plain(), self.data.name, self.data.stat().st_size, self.threads]
        text = json.dumps([*about, weights_digest(self.settings)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def plain(self) -> Numbers:
        """All settings of the run, defaults too, as JSON. Raises ConfigError like `silva tune`."""
        from silva.config import as_plain, build, overlay, read_toml
        from silva.data.config import DataConfig
        from silva.federation.config import FederationConfig

        recipe = read_toml(common.RECIPES / f"{self.recipe}.toml")
        tree = overlay(recipe, dict(assignment(text) for text in self.settings))
        named = {name: value for name, value in tree.items() if name not in ("data", "federation")}
        data = build(DataConfig, tree.get("data", {}), "data")
        federation = build(FederationConfig, tree.get("federation", {}), "federation")
        return {**named, "data": as_plain(data), "federation": as_plain(federation)}

    @property
    def folder(self) -> Path:
        return self.work / "tune" / self.digest / f"seed-{self.seed}"

    @property
    def forest(self) -> Path:
        return self.folder / "forest"

    @property
    def unfinished(self) -> bool:
        return (self.forest.with_name("forest.run") / "state.json").is_file()

    @property
    def done(self) -> bool:
        return (self.forest / "report" / "summary.json").is_file() and not self.unfinished

    def command(self) -> list[str]:
        """`silva tune`, from the start or from where it was."""
        silva = [*common.silva_command(), "tune"]
        if self.unfinished:
            return [*silva, "--resume", str(self.forest)]
        recipe = common.RECIPES / f"{self.recipe}.toml"
        options = ["--config", str(recipe), "--data", str(self.data), "--out", str(self.forest)]
        options += ["--seed", str(self.seed), "--threads", str(self.threads)]
        return [*silva, *options, *(w for s in self.settings for w in ("--set", s))]


def assignment(text: str) -> tuple[str, Any]:
    """ "a.b=1e-3" as a name and a TOML value, as `silva tune --set` reads it."""
    name, _, value = text.partition("=")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def public(settings: Iterable[str]) -> list[str]:
    """Settings as results may show them: sorted, of a path on this machine the last part alone."""
    shown = []
    for text in settings:
        name, _, value = text.partition("=")
        path = value.strip("\"'")
        shown.append(f"{name}={Path(path).name}" if path.startswith(("/", "~")) else text)
    return sorted(shown)


def weights_digest(settings: Sequence[str]) -> str:
    """SHA-256 of the backbone's weights: a run of other weights is another run."""
    given = [s.partition("=")[2] for s in settings if s.startswith("backbone=")]
    shipped = common.ROOT / "src" / "silva" / "assets" / "silva-vit-tiny"
    path = (Path(given[-1].strip("\"'")) if given else shipped) / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def run_job(job: Job, again: bool = False) -> Job:
    """Run a job to its end, or find that it has one; RuntimeError with the log's end if it fails.

    again: start anew even if it is done or under way, because the code is another.
    """
    with common.locked(job.folder) as lock:
        if again:
            shutil.rmtree(job.forest, ignore_errors=True)
            shutil.rmtree(job.forest.with_name("forest.run"), ignore_errors=True)
        if job.done:
            return job
        if (
            not job.unfinished
        ):  # what a kill may leave before the first or after the last checkpoint
            for rest in (job.forest, job.forest.with_name("forest.run")):
                shutil.rmtree(rest, ignore_errors=True)
        log, source = job.folder / "log.txt", common.commit()
        common.write_json(job.folder / "settings.json", job.plain())  # for whoever looks in here
        outcome = common.run_child(job.command(), log, job.threads, keep=(lock.fileno(),))
        if outcome.code:
            raise RuntimeError(
                f"seed {job.seed} ended with code {outcome.code}:\n{common.last_lines(log)}"
            )
        about = {
            "commit": source,
            "peak_rss_bytes": outcome.peak_bytes,
            "wall_seconds": outcome.seconds,  # of the last start alone when the run was resumed
        }
        common.write_json(job.folder / "outcome.json", about)
    return job


def run_all(
    jobs: Sequence[Job], at_once: int, on_done: Callable[[Job], None], *, again: bool = False
) -> list[str]:
    """Run jobs, at most `at_once` side by side; returns what went wrong, one text a failed job."""
    failures = []
    pool = ThreadPoolExecutor(at_once)
    names: dict[Future[Job], Job] = {pool.submit(run_job, job, again): job for job in jobs}
    pending = set(names)
    try:
        while pending:
            finished, pending = wait(pending, timeout=STATUS_S, return_when=FIRST_COMPLETED)
            for future in finished:
                error = future.exception()
                if error is None:
                    on_done(future.result())
                else:
                    failures.append(f"{names[future].recipe}: {error}")
            if not finished:
                _print_status(names[future] for future in pending)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return failures


def _print_status(jobs: Iterable[Job]) -> None:
    for job in jobs:
        state = job.forest.with_name("forest.run") / "state.json"
        try:
            now = json.loads(state.read_text())["content"]
        except (OSError, ValueError, KeyError):  # not started, or just finished
            continue
        where = " ".join((job.recipe, *job.settings, f"seed {job.seed}"))
        print(f"  {where}: {now['stage']} {now['round']}", file=sys.stderr, flush=True)


def collect(job: Job) -> Numbers:
    """All numbers of one finished run, from its report."""
    report = job.forest / "report"
    summary = common.read_json(report / "summary.json")
    tables = common.read_json(report / "tables.json")
    kept = ("tiers", "control", "unseen", "clusters", "ari", "routing_agreement", "clients")
    columns = {"feature": "feature", "rule": "rule", "k": "K", "ari": "adjusted Rand index"}
    return {
        **{name: summary[name] for name in (*kept, "seconds", "bytes")},
        "clustering": [
            {short: row[column] for short, column in columns.items()}
            for row in tables.get("clustering", {"rows": []})["rows"]
        ],
        "spread": label_spread(report, job.data),
        "wins": wins(report / "metrics.parquet", summary["control"]),
        **rounds_of(report / "rounds.parquet"),
        **(common.read_json(job.folder / "outcome.json") or {}),
    }


def wins(metrics: Path, controls: Iterable[str]) -> dict[str, float]:
    """Share of seen clients whose leaf beats a control on the same test images (ties count half)."""
    rows = [row for row in pq.read_table(metrics).to_pylist() if row["seen"]]
    last = {(row["tier"], row["client"]): row["accuracy"] for row in rows}
    shares = {}
    for control in controls:
        pairs = [
            (leaf, last[control, client])
            for (tier, client), leaf in last.items()
            if tier == "leaf" and (control, client) in last
        ]
        if pairs:
            shares[control] = float(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    return shares


def rounds_of(path: Path) -> Numbers:
    """Rounds run in each stage, and the share of their seconds outside the models' arithmetic."""
    rows = pq.read_table(path).to_pylist()
    numbers = {stage: {r["round"] for r in rows if r["stage"] == stage} for stage in TIERS}
    rounds = {stage: len(numbers[stage]) for stage in TIERS}
    if numbers["leaf"]:  # one row a client, at the number of the last local pass
        rounds["leaf"] = max(numbers["leaf"]) - rounds["root"] - rounds["cluster"]
    overhead = {}
    for stage in TIERS:
        mine = [r for r in rows if r["stage"] == stage]
        if seconds := sum(r["seconds"] for r in mine):
            overhead[stage] = 1 - sum(r["seconds_compute"] for r in mine) / seconds
    return {"rounds": rounds, "overhead": overhead}
