from __future__ import annotations

import random

import pytest

from silva.control.overlap import OverlapRule


class World:
    """Passes that take a second when whole and `ratio` seconds when split, give or take `noise`."""

    def __init__(self, noise: float, seed: int) -> None:
        self.rule, self._noise, self._random = OverlapRule(), noise, random.Random(seed)

    def run(self, passes: int, ratio: float, kind: int = 0) -> tuple[float, float]:
        """Seconds of each pass on average, and the share of passes that were split."""
        spent, split = 0.0, 0
        for _ in range(passes):
            splits = self.rule.splits(kind)
            seconds = (ratio if splits else 1.0) * self._random.lognormvariate(0, self._noise)
            self.rule.observe(kind, splits, seconds)
            spent, split = spent + (ratio if splits else 1.0), split + splits
        return spent / passes, split / passes


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("ratio", [1.0, 1.02, 1.1, 1.3, 2.0, 5.0])
def test_where_splitting_loses_next_to_nothing_is_lost(ratio: float, noise: float) -> None:
    for seed in range(5):
        world = World(noise, seed)
        first, _ = world.run(500, ratio)
        later, _ = world.run(3000, ratio)
        # A trial of which nothing is known yet may be worse than was feared.
        assert first < 1.01 + (ratio > 2) * ratio / 200
        assert later < 1.01


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("ratio", [0.5, 0.7, 0.8])
def test_where_it_gains_it_becomes_usual(ratio: float, noise: float) -> None:
    for seed in range(5):
        world = World(noise, seed)
        world.run(300, ratio)
        assert world.run(2000, ratio)[1] > 0.98


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_it_follows_what_changes(noise: float) -> None:
    world = World(noise, 0)
    world.run(600, 0.7)
    world.run(600, 1.3)
    assert world.run(500, 1.3)[1] < 0.02
    world.run(600, 0.7)
    assert world.run(500, 0.7)[1] > 0.98


def test_kinds_and_sizes_are_judged_apart() -> None:
    world = World(0.0, 0)
    for _ in range(400):
        world.run(1, 0.6, kind=1)
        world.run(1, 1.5, kind=2)
    assert world.rule.splits(1)
    assert not world.rule.splits(2)
    assert not world.rule.splits(3)


def test_who_only_watched_decides_at_once_as_the_others_do() -> None:
    world, watching = World(0.05, 1), OverlapRule()
    for _ in range(400):
        splits = world.rule.splits(0)
        seconds = 0.6 if splits else 1.0
        world.rule.observe(0, splits, seconds)
        watching.observe(0, splits, seconds)
        assert watching.splits(0) is world.rule.splits(0)
