from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import broken, make_run, partition, settings

from silva.data.nouns import Partition
from silva.federation import grouping
from silva.federation.bases import FEATURES
from silva.federation.cascade import grow_root
from silva.federation.client import Update, Work, payload_bytes
from silva.federation.clustering import RULES
from silva.federation.config import ClusteringConfig
from silva.federation.grouping import (
    APART,
    AUTO,
    agreement,
    choose,
    collect_missing_bases,
    distance_matrix,
    find_clusters,
)
from silva.federation.run import Run

SEEN = ["c-0", "c-1", "c-2", "c-3", "c-4", "c-5"]
SEPARATING = {
    "head_init": "zeros",
    "local__epochs": 3,
    "root__rounds": 4,
    "clustering__feature": "dB_ema",
}
"""Settings under which the tiny model's clients tell their groups apart."""


def rooted(folder: Path, **flags: object) -> Run:
    run = make_run(folder / "run", settings(**flags))
    grow_root(run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return rooted(tmp_path_factory.mktemp("grouping"), **SEPARATING)


def test_clients_of_disjoint_classes_are_told_apart(run: Run) -> None:
    labels, record = find_clusters(run)
    assert labels == {name: n % 2 for n, name in enumerate(SEEN)}
    assert record.ari == 1.0 and record.k == 2
    matrix = np.array(record.distances)
    same = np.equal.outer(record.labels, record.labels)
    off = ~np.eye(len(SEEN), dtype=bool)
    assert matrix[same & off].max() < matrix[~same].min()


def test_the_decision_is_on_record_with_its_alternatives(run: Run) -> None:
    labels, record = find_clusters(run)
    assert record.clients == SEEN and record.labels == [labels[n] for n in SEEN]
    assert record.true_groups == [0, 1] * 3 and len(record.eigenvalues) == len(SEEN)
    assert (record.feature, record.rule) == ("dB_ema", "fixed")
    rows = {(a["feature"], a["rule"]) for a in record.alternatives}
    assert rows == {(f, r) for f in FEATURES for r in RULES if r != "fixed"}
    assert all(a["k"] >= 1 and -1 <= a["ari"] <= 1 for a in record.alternatives)


def matrices(clean: str, groups: int = 4, each: int = 5) -> dict[str, np.ndarray]:
    """Distances [n, n] by feature: clear groups in one, unrelated points in the others."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(groups), each)
    found = {}
    for feature in FEATURES:
        places = rng.normal(size=(groups * each, 40))
        if feature == clean:
            places = 3 * np.eye(groups, 40)[truth] + 0.2 * places
        places /= np.linalg.norm(places, axis=1, keepdims=True)
        found[feature] = np.clip((1 - places @ places.T) / 2, 0.0, 1.0)
        np.fill_diagonal(found[feature], 0.0)
    return found


@pytest.mark.parametrize("rule", ["separation", "fixed"])
@pytest.mark.parametrize("clean", AUTO)
def test_auto_takes_the_feature_that_shows_the_groups(rule: str, clean: str) -> None:
    config = ClusteringConfig(rule=rule, k=4)
    feature, chosen = choose(matrices(clean), config, seed=0)
    assert feature == clean
    assert agreement(np.repeat(np.arange(4), 5).tolist(), chosen.labels) == 1.0


@pytest.mark.parametrize(
    ("flags", "spoilt", "feature"),
    [
        ({}, "", "dB_cos"),
        ({"participation": 0.5}, "", "a subspace"),
        ({"late": 0.5}, "", "a subspace"),
        ({"dropout": 0.3}, "", "a subspace"),
        ({"participation": 0.5, "clustering__feature": "dB_cos"}, "", "dB_cos"),
        ({}, "sometimes", "a subspace"),
        ({}, "always", "dB_cos"),
    ],
)
def test_directions_decide_only_among_clients_of_the_same_rounds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, object],
    spoilt: str,
    feature: str,
) -> None:
    """Even where they show the clearest groups: the columns of different rounds do not correspond."""

    def meddle(work: Work, update: Update) -> Update:
        bad = spoilt == "always" or (spoilt and run.state.stage == "root" and run.state.round == 1)
        return broken(update) if bad and work.client == "c-2" else update

    clustering = {"clustering__feature": "auto", "root__rounds": 3}
    run = make_run(tmp_path / "run", settings(**{**clustering, **flags}), meddle=meddle)
    grow_root(run)
    clear = matrices("dB_cos", groups=2, each=3)
    monkeypatch.setattr(grouping, "distance_matrix", lambda run, names, feature: clear[feature])
    labels, record = find_clusters(run)
    assert record.feature == feature or (feature == "a subspace" and record.feature in APART)
    if feature == "dB_cos":
        assert [labels[name] for name in SEEN] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("feature", FEATURES)
def test_distances_are_symmetric_and_in_the_unit_interval(run: Run, feature: str) -> None:
    matrix = distance_matrix(run, SEEN, feature)
    assert (matrix == matrix.T).all() and (matrix.diagonal() == 0).all()
    assert matrix.min() >= 0 and matrix.max() <= 1


def test_held_out_clients_take_no_part(run: Run) -> None:
    find_clusters(run)
    assert set(run.state.files["ema"]) == set(SEEN)


def test_without_true_groups_there_is_no_agreement(tmp_path: Path) -> None:
    plain = partition()
    rows = tuple(replace(c, group=-1) for c in plain.clients)
    run = make_run(tmp_path / "run", parts=Partition("tiny", rows, plain.unseen))
    grow_root(run)
    record = find_clusters(run)[1]
    assert record.true_groups is None and record.ari is None
    assert all(a["ari"] is None for a in record.alternatives)
    assert agreement([0, 0, 1], np.array([1, 1, 0])) == 1.0


def test_clients_never_sampled_are_asked_for_a_basis_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(participation=0.3, root__rounds=1))
    asked: list[Work] = []
    grow_root(run)
    sampled = set(run.state.files["ema"])
    assert len(sampled) == 2
    root = run.state.root
    assert root is not None
    before = {n: (p.A.clone(), p.B.clone()) for n, p in root.pairs.items()}
    real = run.runtime.train
    run.runtime.train = lambda works: (asked.append(w) or u for w in works for u in real([w]))
    labels, _ = find_clusters(run)
    assert {w.client for w in asked} == set(SEEN) - sampled and len(asked) == len(SEEN) - 2
    assert set(labels) == set(run.state.files["ema"]) == set(SEEN)
    assert all(
        torch.equal(p.A, before[n][0]) and torch.equal(p.B, before[n][1])
        for n, p in root.pairs.items()
    )
    row, missing = run.state.record.rounds[-1], len(SEEN) - 2
    assert (row.stage, row.round, row.participants) == ("clustering", 1, missing)
    assert (row.rejected, row.dropped, row.rho) == (0, 0, 0.0) and math.isfinite(row.loss)
    assert row.bytes_up == row.bytes_down == missing * payload_bytes(root.pairs, root.head)
    rounds = len(run.state.record.rounds)
    collect_missing_bases(run, SEEN)
    assert len(asked) == missing and len(run.state.record.rounds) == rounds


def test_what_is_not_believed_of_a_basis_only_round_is_counted(tmp_path: Path) -> None:
    run = rooted(tmp_path, participation=0.3, root__rounds=1)
    wrong = set(SEEN) - set(run.state.files["ema"])
    gone, spoilt, *_ = sorted(wrong)
    real = run.runtime.train

    def train(works: list[Work]) -> Iterator[Update]:
        for update in real(works):
            if update.client == spoilt:
                update = broken(update)
            if update.client != gone:
                yield update
        yield replace(update, client="stranger")

    run.runtime.train = train
    collect_missing_bases(run, SEEN)
    row = run.state.record.rounds[-1]
    assert (row.participants, row.rejected, row.dropped) == (len(wrong) - 2, 2, 1)
    assert set(SEEN) - set(run.state.files["ema"]) == {gone, spoilt}


def test_late_clients_are_clustered_too(tmp_path: Path) -> None:
    run = rooted(tmp_path, late=0.5)
    assert len(run.founders()) == 3
    assert set(run.state.files["ema"]) == set(run.founders())
    assert set(find_clusters(run)[0]) == set(SEEN)


def test_a_client_without_a_usable_basis_is_far_from_all(tmp_path: Path) -> None:
    def meddle(work: Work, update: Update) -> Update:
        return broken(update) if work.client == "c-2" else update

    run = make_run(tmp_path / "run", meddle=meddle)
    grow_root(run)
    labels, record = find_clusters(run)
    row = record.distances[2]
    assert row == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    assert [r[2] for r in record.distances] == row and set(labels) == set(SEEN)


def test_no_usable_basis_at_all_is_no_obstacle(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", meddle=lambda work, update: broken(update))
    grow_root(run)
    labels, record = find_clusters(run)
    assert set(labels) == set(SEEN) and np.isfinite(record.distances).all()


def test_a_client_without_one_feature_is_as_far_from_all_by_it_as_can_be(run: Run) -> None:
    means = run.folder.get(run.state, "ema", SEEN[0])
    assert means is not None
    early = {key: mean for key, mean in means.items() if key.startswith("dB_cos/")}
    run.folder.put(run.state, "ema", SEEN[0], early)
    assert (distance_matrix(run, SEEN, "dB_ema")[0, 1:] == 1.0).all()
    assert (distance_matrix(run, SEEN, "dB_cos")[0, 1:] < 1.0).any()
