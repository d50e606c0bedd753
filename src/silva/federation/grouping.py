"""The clustering stage: from the clients' running means to labels, with all that was considered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from silva.adapters.subspace import direction_distances, distances
from silva.federation.bases import FEATURES, of_feature, updated_means
from silva.federation.clustering import RULES, Grouping, group
from silva.federation.config import ClusteringConfig
from silva.federation.record import Clustering
from silva.federation.run import Run

AUTO = ("dB_ema", "dB_cos")
"""Features of which `auto` takes the one whose clusters score best by the rule, the first of equals."""


def find_clusters(run: Run) -> tuple[dict[str, int], Clustering]:
    """Labels of every training client, and the record of the decision."""
    names = [c.name for c in run.partition.seen]
    collect_missing_bases(run, names)
    config = run.config.clustering
    matrices = {feature: distance_matrix(run, names, feature) for feature in FEATURES}
    feature, chosen = choose(matrices, config, run.seed)
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
            _alternative(run, matrices[name], name, rule, known)
            for name in FEATURES
            for rule in RULES
            if rule != "fixed"
        ],
    )
    return dict(zip(names, chosen.labels.tolist(), strict=True)), record


def choose(
    matrices: Mapping[str, NDArray[np.float64]], config: ClusteringConfig, seed: int
) -> tuple[str, Grouping]:
    """The feature that decides, as configured, and the grouping by its distances."""
    candidates = AUTO if config.feature == "auto" else (config.feature,)
    found = {feature: group(matrices[feature], config, seed=seed) for feature in candidates}
    feature = max(candidates, key=lambda name: found[name].score)
    return feature, found[feature]


def collect_missing_bases(run: Run, names: Sequence[str]) -> None:
    """A basis-only round for clients that the root stage never sampled: their pair is discarded."""
    root = run.state.root
    assert root is not None
    missing = [n for n in names if n not in run.state.files.get("ema", {})]
    works = [
        run.work(n, "bases", 0, merged=run.base, pairs=root.pairs, head=root.head) for n in missing
    ]
    for update in run.runtime.train(works):
        if update.finite():
            means = updated_means(None, update.pairs, root.pairs, run.config.clustering.ema)
            run.folder.put(run.state, "ema", update.client, means)


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
