"""Does clustering find the clients' true groups? K and agreement by feature and by rule.

    python benchmarks/clusters.py --seeds 0 1 2 --jobs 2
    python benchmarks/clusters.py --seeds 0 1 2 --rules-only

Each case is tuned up to the clustering stage and no further. The distances between clients are
kept in the work folder after every root round, so a new rule needs no training: `--rules-only`.
Agreement is the adjusted Rand index (1: equal partitions); distances are 1 - the mean squared
cosine of principal angles, in [0, 1].
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
from numpy.typing import NDArray
from tuning import Numbers, assignment, public, weights_digest

if TYPE_CHECKING:
    from silva.federation.config import ClusteringConfig
    from silva.federation.run import Progress, Run
    from silva.federation.tune import TuneConfig

Matrix = NDArray[np.float64]
TOLD = "told K"
"""Name of the rule `fixed` when it is given the true number of groups."""


@dataclass(frozen=True)
class Case:
    """A federation whose true groups are known. data: "embedded", or a file of `--data-dir`."""

    data: str
    partition: str
    clients: int
    samples: int
    rounds: int


CASES = {
    "planted-4": Case("embedded", "planted(4)", 20, 150, 27),
    "planted-1": Case("embedded", "planted(1)", 20, 150, 27),
    "sc-dir-24x100": Case("tin32_fed100.npz", "sc_dir(2,3.0,groups=6)", 24, 100, 50),
    "sc-dir-32x50": Case("tin32_fed100.npz", "sc_dir(2,3.0,groups=6)", 32, 50, 20),
    "pacs-32x50": Case("pacs64.npz", "domain_dir(0.6)", 32, 50, 20),
}
"""rounds are those of all tiers; the root has its share of them (30 % by default)."""


@dataclass(frozen=True)
class Job:
    """One case with one seed."""

    name: str
    seed: int
    settings: tuple[str, ...]
    data_dir: Path
    work: Path

    def config(self) -> TuneConfig:
        """All settings of the run. Raises ConfigError."""
        from silva.config import build, overlay
        from silva.federation.tune import TuneConfig, with_rounds

        case = CASES[self.name]
        named = case.data == "embedded"
        tree = {
            "seed": self.seed,
            "threads": 1,
            "data": {
                "path": case.data if named else str(self.data_dir / case.data),
                "partition": case.partition,
                "clients": case.clients,
                "unseen": 0.0,  # every client of a case takes part in its clustering
                "samples_per_client": case.samples,
            },
            "federation": {"rounds": case.rounds, "measure_every": 0},
        }
        config = build(TuneConfig, overlay(tree, dict(map(assignment, self.settings))), "flags")
        return replace(config, federation=with_rounds(config.federation))

    @property
    def folder(self) -> Path:
        """One folder for all that decides the distances; rules are not among it."""
        from silva.config import as_plain

        plain = as_plain(self.config())
        for name in ("rule", "feature", "k", "k_min", "k_max", "min_size"):
            plain["federation"]["clustering"].pop(name, None)
        plain["data"]["path"] = CASES[self.name].data
        text = json.dumps([plain, weights_digest(self.settings)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.work / "clusters" / f"{self.name}-seed-{self.seed}-{digest}"

    @property
    def cache(self) -> Path:
        return self.folder / "distances.npz"


def train(job: Job) -> None:
    """Root stage and clustering of a job, from wherever an earlier attempt stopped."""
    import torch

    torch.set_num_threads(1)
    with common.locked(job.folder):
        if job.cache.is_file():
            return
        started = time.perf_counter()
        run = open_run(job)
        from silva.federation.bases import FEATURES
        from silva.federation.cascade import grow_root, make_clusters
        from silva.federation.grouping import distance_matrix

        if run.state.stage == "root":
            grow_root(run)
        make_clusters(run)
        names = [c.name for c in run.partition.seen]
        found = run.state.record.clustering
        assert found is not None
        arrays = {feature: distance_matrix(run, names, feature) for feature in FEATURES}
        _save(
            job.cache,
            truth=[c.group for c in run.partition.seen],
            labels=found.labels,
            rounds=run.config.root.rounds,
            seconds=time.perf_counter() - started,
            commit=common.commit(),
            **arrays,
        )


def open_run(job: Job) -> Run:
    """A run at its beginning, or where its folder left it."""
    from silva.data.open import open_dataset
    from silva.federation.assembly import deal, make_run
    from silva.federation.material import image_material
    from silva.federation.state import RunFolder, RunState
    from silva.models.registry import load_backbone

    config = job.config()
    backbone = load_backbone(config.backbone)
    dataset = open_dataset(config.data.path)
    partition = deal(config.data, config.seed, dataset)
    folder = RunFolder(job.folder / "run", [c.name for c in partition.clients])
    if (folder.path / "state.json").is_file():
        state = folder.load()
    else:
        (folder.path / "clients").mkdir(parents=True, exist_ok=True)
        state = RunState()
    federation, seed = config.federation, config.seed
    run = make_run(federation, seed, image_material(backbone, dataset), partition, folder, state)
    run.on_progress = partial(keep_distances, run, job.folder)
    return run


def keep_distances(run: Run, folder: Path, step: Progress) -> None:
    """The distances after a root round, for rules that look at more than the last one."""
    from silva.federation.bases import FEATURES
    from silva.federation.grouping import distance_matrix

    names = [c.name for c in run.partition.seen]
    if step.stage == "root" and set(names) <= set(run.state.files.get("ema", {})):
        arrays = {feature: distance_matrix(run, names, feature) for feature in FEATURES}
        _save(folder / f"round-{step.done:03d}.npz", **arrays)


def _save(path: Path, **arrays: Any) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez(scratch, **arrays)
    scratch.replace(path)


def evaluate(job: Job) -> Numbers:
    """All that the kept distances of one job say: every feature under every rule."""
    from silva.federation.bases import FEATURES
    from silva.federation.clustering import RULES
    from silva.federation.grouping import choose

    kept = np.load(job.cache)
    truth = kept["truth"].tolist()
    groups = len(set(truth))
    config = job.config().federation.clustering
    told = replace(config, k=groups)
    decided, _ = choose({f: kept[f] for f in FEATURES}, config, job.seed)
    rows = []
    for feature in FEATURES:
        for rule in RULES:
            row = judge(kept[feature], told if rule == "fixed" else config, rule, truth, job.seed)
            chosen = (feature, rule) == (decided, config.rule)
            name = TOLD if rule == "fixed" else rule
            rows.append({"feature": feature, "rule": name, "chosen": chosen, **row})
    chosen_row = next((row for row in rows if row["chosen"]), None)
    return {
        "groups": groups,
        "clients": len(truth),
        "rounds": int(kept["rounds"]),
        "seconds": float(kept["seconds"]),
        "commit": str(kept["commit"]),
        "k": chosen_row["k"] if chosen_row else None,
        "ari": chosen_row["ari"] if chosen_row else None,
        "rows": rows,
        "distances": {feature: gap_between(kept[feature], truth) for feature in FEATURES},
    }


def judge(
    matrix: Matrix, config: ClusteringConfig, rule: str, truth: Sequence[int], seed: int
) -> Numbers:
    """K and agreement by one rule on one matrix, with the eigenvalues and scores it saw."""
    from silva.federation.clustering import group
    from silva.federation.grouping import agreement

    found = group(matrix, config, rule=rule, seed=seed)
    return {
        "k": found.k,
        "ari": agreement(truth, found.labels),
        "eigenvalues": [round(float(value), 6) for value in found.eigenvalues],
        "scores": [[k, round(float(score), 6)] for k, score in found.scores],
    }


def gap_between(matrix: Matrix, truth: Sequence[int]) -> Numbers:
    """Mean, least and greatest distance within the true groups and between them."""
    same = np.equal.outer(truth, truth)
    others = ~np.eye(len(truth), dtype=bool)
    found: Numbers = {}
    for name, mask in (("within", same & others), ("between", ~same)):
        values = matrix[mask]
        figures = (values.mean(), values.min(), values.max()) if len(values) else (None,) * 3
        found[name] = dict(
            zip(
                ("mean", "min", "max"),
                [None if figure is None else float(figure) for figure in figures],
                strict=True,
            )
        )
    return found


def run_all(jobs: Sequence[Job], at_once: int) -> list[str]:
    """Train the jobs in processes of one thread; returns what went wrong."""
    os.environ.update(common.environment(1))
    failures = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=context) as pool:
        names = {pool.submit(train, job): job for job in jobs}
        for future in as_completed(names):
            job, error = names[future], future.exception()
            if error is not None:
                failures.append(f"{job.name}, seed {job.seed}: {error}")
            print(f"finished {job.name} seed {job.seed}", file=sys.stderr, flush=True)
    return failures


def main() -> int:
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument(
        "--rules-only", action="store_true", help="read kept distances, no training"
    )
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    circumstances = common.facts()
    print(common.heading(circumstances))
    print(f"seeds     {arguments.seeds}\nunits     adjusted Rand index; distances in [0, 1]\n")
    jobs = [
        Job(name, seed, tuple(arguments.settings), arguments.data_dir.resolve(), arguments.work)
        for name in arguments.cases
        for seed in arguments.seeds
    ]
    jobs[0].config()
    failures = [] if arguments.rules_only else run_all(jobs, arguments.jobs)
    path = arguments.results / "clusters.json"
    content = common.read_json(path) or {"benchmark": "clusters", "cases": {}}
    for name in arguments.cases:
        seeds = {str(j.seed): evaluate(j) for j in jobs if j.name == name and j.cache.is_file()}
        if seeds:
            words = ["python benchmarks/clusters.py --cases", name, "--seeds", *seeds]
            words += [f"--set {setting}" for setting in public(arguments.settings)]
            case = {"command": " ".join(words), "seeds": seeds, "partition": CASES[name].partition}
            content["cases"][name] = {**circumstances, **case}
            print_case(name, seeds)
    common.write_json(path, content)
    print(f"written to {path}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def print_case(name: str, seeds: Numbers) -> None:
    """K and agreement by feature and rule, a column a seed."""
    from rich.console import Console
    from rich.table import Table

    first = next(iter(seeds.values()))
    table = Table("feature", "rule", *(f"seed {seed}: K, index" for seed in seeds))
    for n, row in enumerate(first["rows"]):
        cells = [f"{run['rows'][n]['k']}, {run['rows'][n]['ari']:.2f}" for run in seeds.values()]
        style = "bold" if row["chosen"] else ""
        table.add_row(row["feature"], row["rule"], *cells, style=style)
    console = Console(width=100)
    console.print(f"{name}: {first['clients']} clients in {first['groups']} groups", style="bold")
    console.print(table)
    for feature, gaps in first["distances"].items():
        means = [gaps[side]["mean"] for side in ("within", "between")]
        shown = ["-" if mean is None else f"{mean:.3g}" for mean in means]
        console.print(f"{feature}, seed {next(iter(seeds))}: within {shown[0]}, between {shown[1]}")


if __name__ == "__main__":
    sys.exit(main())
