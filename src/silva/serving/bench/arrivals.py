"""When requests arrive in an open loop: gaps with a mean of 1 / rate and a chosen spread."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

CHUNK = 1024
"""Gaps drawn at once. It is fixed, so that a longer schedule begins as a shorter one does."""


def arrival_times(kind: str, rate: float, cv: float, rng: np.random.Generator) -> Iterator[float]:
    """Seconds after the start, ascending, without end.

    rate: arrivals a second. kind: "poisson" (exponential gaps), "bursty" (gamma gaps whose standard
    deviation is `cv` times their mean; cv = 1 is Poisson) or "constant".
    """
    return accumulate(_gaps(kind, rate, cv, rng))


def _gaps(kind: str, rate: float, cv: float, rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from _chunk(kind, rate, cv, rng).tolist()


def _chunk(kind: str, rate: float, cv: float, rng: np.random.Generator) -> NDArray[np.float64]:
    if kind == "constant":
        return np.full(CHUNK, 1.0 / rate)
    if kind == "poisson":
        return rng.exponential(1.0 / rate, CHUNK)
    # A gamma's mean is shape * scale, its squared coefficient of variation 1 / shape.
    shape = cv**-2.0
    return rng.gamma(shape, 1.0 / (rate * shape), CHUNK)
