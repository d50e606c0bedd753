from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from silva.errors import RunError
from silva.federation.clustering import RULES, group
from silva.federation.config import ClusteringConfig

PLAIN = ClusteringConfig(rule="fixed", k=2, k_min=2, k_max=8, min_size=1)
FINDERS = sorted(set(RULES) - {"fixed"})
"""The rules that choose K themselves."""


def planted(
    sizes: tuple[int, ...], within: float = 0.1, between: float = 0.6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of clients in groups, a little uneven, and the true labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    base = np.where(labels[:, None] == labels[None, :], within, between)
    noise = rng.uniform(0.9, 1.1, base.shape)
    matrix = base * (noise + noise.T) / 2
    np.fill_diagonal(matrix, 0.0)
    return matrix, labels


def canonical(labels: np.ndarray) -> bool:
    """Labels count up from 0 in the order in which they first occur."""
    seen = list(dict.fromkeys(labels.tolist()))
    return seen == list(range(len(seen)))


@pytest.mark.parametrize("rule", FINDERS)
@pytest.mark.parametrize("sizes", [(5, 5, 5), (4, 7, 5, 4)])
def test_clear_groups_are_found_without_K(rule: str, sizes: tuple[int, ...]) -> None:
    matrix, truth = planted(sizes)
    found = group(matrix, PLAIN, rule=rule)
    assert found.k == len(sizes)
    assert adjusted_rand_score(truth, found.labels) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_clients_that_differ_by_chance_alone_are_one_cluster(seed: int) -> None:
    """Random subspaces: distances are all alike, as among clients of one kind."""
    rng = np.random.default_rng(seed)
    spans = np.linalg.qr(rng.normal(size=(4, 14, 40, 3)))[0]
    shared = np.einsum("mipr,mjps->mijrs", spans, spans)
    matrix = 1 - np.square(shared).sum(axis=(3, 4)).mean(axis=0) / 3
    np.fill_diagonal(matrix, 0.0)
    assert group(matrix, PLAIN, rule="separation").k == 1


def test_no_more_than_chance_is_found_among_clients_without_groups() -> None:
    """One K of many is soon better than chance: what counts is the best of all."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        points = rng.normal(size=(16, 64))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        matrix = 1 - points @ points.T
        np.fill_diagonal(matrix, 0.0)
        found.append(group(matrix, PLAIN, rule="separation").k)
    assert sum(k > 1 for k in found) <= 2


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_given_K_is_obeyed(k: int) -> None:
    matrix, truth = planted((4,) * k)
    found = group(matrix, replace(PLAIN, k=k))
    assert found.k == k and adjusted_rand_score(truth, found.labels) == 1.0


def test_a_given_K_is_scored_by_how_far_its_clusters_are_apart() -> None:
    clear, loose, one = (planted((4, 4, 4), within=w)[0] for w in (0.1, 0.4, 0.6))
    scores = [group(matrix, replace(PLAIN, k=3)).score for matrix in (clear, loose, one)]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.5 > scores[2]
    assert group(clear, replace(PLAIN, k=1)).score == 0.0


@pytest.mark.parametrize("k", [0, 7, 99])
def test_a_K_that_cannot_be_is_an_error_with_the_range(k: int) -> None:
    with pytest.raises(RunError, match="choose 1 to 6"):
        group(planted((3, 3))[0], replace(PLAIN, k=k))


def test_bounds_that_leave_no_K_are_an_error() -> None:
    with pytest.raises(RunError, match="5 is more than k_max, 3"):
        group(planted((3, 3))[0], replace(PLAIN, k_min=5, k_max=3), rule="separation")
    found = group(planted((3, 3))[0], replace(PLAIN, k=2, k_min=5, k_max=3), rule="fixed")
    assert found.k == 2


def test_two_clients_may_be_told_to_be_two_clusters() -> None:
    assert group(1.0 - np.eye(2), replace(PLAIN, k=2), rule="fixed").labels.tolist() == [0, 1]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clients", [0, 1, 2])
def test_fewer_than_three_clients_are_one_cluster(rule: str, clients: int) -> None:
    matrix = 1.0 - np.eye(clients)
    found = group(matrix, replace(PLAIN, k=1), rule=rule)
    assert found.labels.tolist() == [0] * clients and found.k <= 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_distances_break_no_rule(rule: str, value: float) -> None:
    matrix = value * (1.0 - np.eye(6))
    found = group(matrix, PLAIN, rule=rule)
    assert len(found.labels) == 6 and canonical(found.labels)
    assert np.isfinite(found.eigenvalues).all()


@pytest.mark.parametrize("rule", RULES)
def test_labels_do_not_depend_on_the_order_of_the_clients(rule: str) -> None:
    matrix, _ = planted((4, 5, 6), seed=3)
    order = np.random.default_rng(1).permutation(len(matrix))
    config = replace(PLAIN, k=3)
    straight = group(matrix, config, rule=rule).labels
    shuffled = group(matrix[np.ix_(order, order)], config, rule=rule).labels
    assert adjusted_rand_score(straight[order], shuffled) == 1.0


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 9))
def test_any_distances_give_usable_labels(rule: str, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    half = rng.uniform(0, 1, (n, n))
    matrix = (half + half.T) / 2
    np.fill_diagonal(matrix, 0.0)
    before = matrix.copy()
    config = replace(PLAIN, k=2, min_size=2)
    found = group(matrix, config, rule=rule, seed=seed)
    again = group(matrix, config, rule=rule, seed=seed)
    assert found.labels.shape == (n,) and canonical(found.labels)
    assert found.k == 1 or np.bincount(found.labels).min() >= 2
    assert found.labels.tolist() == again.labels.tolist()
    assert (matrix == before).all()


@pytest.mark.parametrize("rule", FINDERS)
def test_the_range_of_K_is_kept_and_every_candidate_is_on_record(rule: str) -> None:
    matrix, _ = planted((3, 3, 3, 3))
    found = group(matrix, replace(PLAIN, k_min=2, k_max=3), rule=rule)
    assert found.k <= 3
    assert {k for k, _ in found.scores} <= {1, 2, 3} and len(found.scores) >= 2
    assert len(found.eigenvalues) == 12


def test_the_spectrum_counts_the_clusters() -> None:
    matrix, _ = planted((9, 9), within=0.1, between=1.0)
    values = group(matrix, PLAIN, rule="local_scaling").eigenvalues
    assert values.tolist() == sorted(values.tolist())
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert values[1] < 0.5 * values[2]


def test_a_cluster_that_is_too_small_joins_the_nearest() -> None:
    matrix, _ = planted((4, 4, 1), between=0.9)
    matrix[8, 4:8] = matrix[4:8, 8] = 0.5
    alone = group(matrix, replace(PLAIN, k=3, min_size=1)).labels
    assert np.bincount(alone).tolist() == [4, 4, 1]
    joined = group(matrix, replace(PLAIN, k=3, min_size=2)).labels
    assert joined.tolist() == [0] * 4 + [1] * 5


def test_clusters_that_are_all_too_small_become_one() -> None:
    matrix, _ = planted((2, 2, 2))
    assert group(matrix, replace(PLAIN, k=3, min_size=7)).k == 1


def test_clients_that_differ_by_degrees_are_one_cluster() -> None:
    """Many clients evenly spread along one direction: a long step, but no gap between clients."""
    rng = np.random.default_rng(0)
    places = np.concatenate(
        [rng.uniform(-1, 1, size=(24, 3)), 0.3 * rng.normal(size=(24, 60))], axis=1
    )
    matrix = np.square(places[:, None] - places[None]).sum(axis=2)
    assert group(matrix / matrix.max(), PLAIN, rule="separation").k == 1
