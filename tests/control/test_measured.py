"""The measured step time recovers what is there, through noise, pauses and a change of speed."""

from __future__ import annotations

import random

import pytest

from silva.control.measured import MeasuredStepTime
from silva.control.slo import LinearStepTime, Load

TRUE = LinearStepTime(0.02, 0.001, 2e-7, 1e-4)
LOADS = [Load(2, 1000, 0), Load(16, 8000, 0), Load(32, 20000, 0), Load(16, 8000, 512)]


def feed(
    model: MeasuredStepTime,
    seed: int,
    steps: int,
    *,
    noise: float,
    pauses: float,
    slower: float = 1,
) -> None:
    """Steps of a server whose batch comes and goes; some are paused by the machine."""
    draw = random.Random(seed)
    batch = 0
    for step in range(steps):
        batch = max(0, min(32, batch + draw.choice((-1, 1)))) if step % 50 else draw.randint(0, 32)
        load = Load(batch, batch * draw.randint(200, 900), draw.choice((0, 0, 64, 128, 512)))
        if load.decoding + load.prefill_tokens:
            seconds = TRUE.seconds(*load) * slower * (1 + draw.uniform(-noise, noise))
            model.observe(
                *load, seconds * (draw.choice((5, 20, 50)) if draw.random() < pauses else 1)
            )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("noise", "pauses"), [(0.0, 0.0), (0.1, 0.0), (0.05, 0.05)])
def test_finds_the_machine(seed: int, noise: float, pauses: float) -> None:
    model = MeasuredStepTime(memory=300)
    feed(model, seed, 600, noise=noise, pauses=pauses)
    for load in LOADS:
        assert model.seconds(*load) == pytest.approx(TRUE.seconds(*load), rel=0.08)
    assert model.fit.steps > 500
    assert model.fit.typical_error < noise + 0.02


@pytest.mark.parametrize("slower", [0.5, 2.0])
def test_follows_a_machine_that_changes(slower: float) -> None:
    model = MeasuredStepTime(memory=100)
    feed(model, 1, 400, noise=0.05, pauses=0.02)
    feed(model, 2, 1000, noise=0.05, pauses=0.02, slower=slower)
    for load in LOADS[1:]:
        assert model.seconds(*load) == pytest.approx(slower * TRUE.seconds(*load), rel=0.1)


def test_one_pause_changes_little() -> None:
    model = MeasuredStepTime()
    feed(model, 3, 300, noise=0.05, pauses=0)
    before = model.seconds(16, 8000, 0)
    model.observe(16, 8000, 0, 100.0)
    for _ in range(8):
        model.observe(16, 8000, 0, TRUE.seconds(16, 8000, 0))
    assert model.seconds(16, 8000, 0) == pytest.approx(before, rel=0.03)


def test_terms_never_fall_and_start_from_the_prior() -> None:
    model = MeasuredStepTime(prior=TRUE)
    assert model.seconds(8, 100, 5) == pytest.approx(TRUE.seconds(8, 100, 5))
    draw = random.Random(0)
    for _ in range(200):
        model.observe(draw.randint(1, 9), draw.randint(1, 9999), 0, draw.uniform(0.01, 0.02))
    fit = model.coefficients
    assert min(fit.step_s, fit.request_s, fit.context_token_s, fit.prefill_token_s) >= 0


def test_impossible_times_are_ignored() -> None:
    model = MeasuredStepTime(prior=TRUE)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        model.observe(1, 1, 1, seconds)
    assert model.fit.steps == 0
    with pytest.raises(ValueError, match="memory"):
        MeasuredStepTime(memory=1)
