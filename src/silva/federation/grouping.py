"""The clustering stage: from the clients' running means to labels, with all that was considered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from silva.adapters.subspace import direction_distances, distances
from silva.federation.bases import FEATURES, of_feature, updated_means
from silva.federation.clustering import RULES, Grouping, chances, considered, group
from silva.federation.config import ClusteringConfig
from silva.federation.record import Clustering
from silva.federation.rounds import believed, cost
from silva.federation.run import Progress, Run

AUTO = ("dQ_ema", "dB_cos")
"""Features of which `auto` takes the one whose clusters score best by the rule, the first of equals."""

APART = ("dB_ema", "dQ_ema")
"""Those that `auto` takes from where clients have their bases from different rounds (`same_rounds`):
subspaces need no common columns."""

COMPARED = tuple(rule for rule in RULES if rule != "fixed")
"""Rules of which the report says what they would have found."""

Result = TypeVar("Result")


class _Steps:
    """Progress of the stage: bases, distances, chance by K, the decision, what else was possible."""

    def __init__(self, run: Run, missing: int, counts: int) -> None:
        self._run, self.done = run, 0
        self._total = missing + len(FEATURES) + counts + 1 + len(FEATURES) * len(COMPARED)

    def took(self, result: Result, note: str) -> Result:
        """One more step is done; hands its result on."""
        self.done += 1
        self._run.on_progress(Progress("clustering", self.done, self._total, note))
        return result


def find_clusters(run: Run) -> tuple[dict[str, int], Clustering]:
    """Labels of every training client, and the record of the decision."""
    names, config = [c.name for c in run.partition.seen], run.config.clustering
    missing = len(without_basis(run, names))
    steps = _Steps(run, missing, len(considered(len(names), config)))
    collect_missing_bases(run, names, steps.took)
    steps.done = missing  # replies may be lost
    matrices = {f: steps.took(distance_matrix(run, names, f), f) for f in FEATURES}
    for k in considered(len(names), config):
        # Rules remember this, the longest part of the stage.
        steps.took(chances(len(names), k), f"{k} clusters by chance")
    auto = AUTO if same_rounds(run) else APART
    feature, chosen = steps.took(choose(matrices, config, run.seed, auto), config.rule)
    truth = [c.group for c in run.partition.seen]
    known = truth if min(truth, default=-1) >= 0 else None
    record = Clustering(
        clients=names,
        labels=chosen.labels.tolist(),
        distances=matrices[feature].tolist(),
        eigenvalues=chosen.eigenvalues.tolist(),
        k=chosen.k,
        feature=feature,
        rule=config.rule,
        scores=chosen.scores,
        true_groups=known,
        ari=agreement(known, chosen.labels),
        alternatives=[
            steps.took(_alternative(run, matrices[name], name, rule, known), f"{rule} of {name}")
            for name in FEATURES
            for rule in COMPARED
        ],
    )
    return dict(zip(names, chosen.labels.tolist(), strict=True)), record


def choose(
    matrices: Mapping[str, NDArray[np.float64]],
    config: ClusteringConfig,
    seed: int,
    auto: Sequence[str] = AUTO,
) -> tuple[str, Grouping]:
    """The feature that decides, as configured or the best of `auto`, and the grouping by it."""
    candidates = auto if config.feature == "auto" else (config.feature,)
    found = {feature: group(matrices[feature], config, seed=seed) for feature in candidates}
    feature = max(candidates, key=lambda name: found[name].score)
    return feature, found[feature]


def same_rounds(run: Run) -> bool:
    """Whether every client's running means are of the same rounds, so that columns correspond.

    Each file of means is one round of its client. The basis-only round counts as a round, in which
    those who were in the root's took no part.
    """
    rounds = [r for r in run.state.record.rounds if r.stage in ("root", "clustering")]
    heard = sum(r.participants > 0 for r in rounds)
    return all(number + 1 == heard for number in run.state.files.get("ema", {}).values())


def without_basis(run: Run, names: Sequence[str]) -> list[str]:
    """Clients that the root stage never sampled."""
    return [n for n in names if n not in run.state.files.get("ema", {})]


def collect_missing_bases(
    run: Run, names: Sequence[str], took: Callable[[str, str], str] = lambda name, note: name
) -> None:
    """A basis-only round for clients that the root stage never sampled: their pair is discarded.

    It is on record where there are such clients, at the number of the last round before it. `took`
    hears of every client that has answered.
    """
    root, started = run.state.root, time.perf_counter()
    assert root is not None
    works = [
        run.work(n, "bases", 0, merged=run.base, pairs=root.pairs, head=root.head)
        for n in without_basis(run, names)
    ]
    if not works:
        return
    arrived = []
    for update in run.runtime.train(works):
        arrived.append(update)
        took(update.client, update.client)
    accepted = believed(run, arrived, works)
    for update in accepted:
        means = updated_means(None, update.pairs, root.pairs, run.config.clustering.ema)
        run.folder.put(run.state, "ema", update.client, means)
    number = run.state.total_rounds
    spent = cost(run, works, arrived, accepted, started, number=number, lanes=run.lanes)
    run.state.record.rounds.append(spent)


def distance_matrix(run: Run, names: Sequence[str], feature: str) -> NDArray[np.float64]:
    """Distances [n, n] between clients; one without a basis is as far from all as can be."""
    means = [of_feature(run.folder.get(run.state, "ema", n) or {}, feature) for n in names]
    present = [n for n, known in enumerate(means) if known]
    result = 1.0 - np.eye(len(names))
    if len(present) > 1:
        measure = direction_distances if feature == "dB_cos" else distances
        result[np.ix_(present, present)] = measure([means[n] for n in present])
    return result


def agreement(truth: Sequence[int] | None, labels: NDArray[np.int64]) -> float | None:
    """Adjusted Rand index of `labels` against the true groups, where these are known."""
    return None if truth is None else float(adjusted_rand_score(truth, labels))


def _alternative(
    run: Run, matrix: NDArray[np.float64], feature: str, rule: str, truth: Sequence[int] | None
) -> dict[str, object]:
    found = group(matrix, run.config.clustering, rule=rule, seed=run.seed)
    ari = agreement(truth, found.labels)
    return {"feature": feature, "rule": rule, "k": found.k, "ari": ari}
