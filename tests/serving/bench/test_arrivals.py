from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from scipy import stats

from silva.serving.bench.arrivals import CHUNK, arrival_times

MANY = 50_000


def gaps(kind: str, rate: float, cv: float = 1.0, count: int = MANY, seed: int = 1) -> np.ndarray:
    times = arrival_times(kind, rate, cv, np.random.default_rng(seed))
    return np.diff(list(islice(times, count)), prepend=0.0)


@pytest.mark.parametrize(
    ("kind", "cv", "spread"),
    [("poisson", 9.0, 1.0), ("bursty", 0.3, 0.3), ("bursty", 1.0, 1.0), ("bursty", 3.0, 3.0)],
)
def test_gaps_have_the_mean_of_the_rate_and_the_spread_asked_for(
    kind: str, cv: float, spread: float
) -> None:
    found = gaps(kind, 4.0, cv)
    assert found.mean() == pytest.approx(0.25, rel=0.03)
    assert stats.variation(found) == pytest.approx(spread, rel=0.03)
    assert (found >= 0).all()


def test_the_distributions_are_exponential_and_gamma() -> None:
    exponential, shape = stats.expon(scale=0.5), 1.5**-2
    gamma = stats.gamma(shape, scale=0.5 / shape)
    pairs = [("poisson", 9.0, exponential), ("bursty", 1.5, gamma), ("bursty", 1.0, exponential)]
    for kind, cv, wanted in pairs:
        assert stats.kstest(gaps(kind, 2.0, cv, count=5000), wanted.cdf).pvalue > 0.01


def test_poisson_counts_vary_as_much_as_their_mean() -> None:
    times = np.cumsum(gaps("poisson", 10.0))
    counts = np.bincount(times.astype(int))[:-1]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)


def test_constant_gaps_are_equal() -> None:
    assert np.allclose(gaps("constant", 8.0, count=2000), 0.125)


@pytest.mark.parametrize("kind", ["poisson", "bursty", "constant"])
def test_the_seed_decides_and_a_longer_schedule_begins_as_a_shorter_one(kind: str) -> None:
    short, long = gaps(kind, 3.0, 2.0, 10), gaps(kind, 3.0, 2.0, 2 * CHUNK + 5)
    assert np.array_equal(long[:10], short)
    other = gaps(kind, 3.0, 2.0, 10, seed=2)
    assert np.array_equal(other, short) == (kind == "constant")
