from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.federation.kernel_means import Matrix, settled


def spread(points: Matrix, labels: np.ndarray) -> float:
    """Sum of squared distances from the clusters' means, from coordinates."""
    parts = (points[labels == c] for c in np.unique(labels))
    return float(sum(((part - part.mean(axis=0)) ** 2).sum() for part in parts))


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_no_single_move_lowers_the_spread_any_more(seed: int, clusters: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(14, 3))
    start = np.concatenate([np.arange(clusters), rng.integers(0, clusters, 14 - clusters)])
    labels = settled(points @ points.T, start)
    least = spread(points, labels)
    assert least <= spread(points, start) + 1e-9
    assert set(labels.tolist()) == set(range(clusters))
    for item in range(len(points)):
        for other in range(clusters):
            moved = labels.copy()
            moved[item] = other
            if len(np.unique(moved)) == clusters:
                assert spread(points, moved) >= least - 1e-9


def test_an_item_that_a_tree_put_in_the_wrong_group_goes_home() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 6)
    points = 3.0 * np.eye(3)[truth] + 0.3 * rng.normal(size=(18, 3))
    start = truth.copy()
    start[[0, 7]] = 2
    assert settled(points @ points.T, start).tolist() == truth.tolist()
    assert start[0] == 2  # what was handed in is left alone


def test_a_cluster_of_one_is_kept() -> None:
    points = np.array([[0.0], [0.1], [0.2]])
    labels = settled(points @ points.T, np.array([0, 0, 1]))
    assert sorted(np.bincount(labels).tolist()) == [1, 2]


@pytest.mark.parametrize("shift", [-2.0, 5.0])
def test_a_similarity_shared_by_all_does_not_matter(shift: float) -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(12, 4))
    start = np.arange(12) % 3
    same = settled(points @ points.T + shift, start)
    assert same.tolist() == settled(points @ points.T, start).tolist()
