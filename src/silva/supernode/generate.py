"""Made-up traffic: Poisson and bursty arrivals, and conversations that share what was said before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silva.config import setting
from silva.errors import ConfigError
from silva.supernode.traces import MAX_REQUESTS, Traffic

_LARGEST = 1_000_000


@dataclass(frozen=True)
class Shape:
    """What traffic looks like; lengths are lognormal around their means."""

    kind: str = setting(
        "poisson", help="how requests come", choices=("poisson", "bursty", "sessions")
    )
    rate: float = setting(10.0, help="requests a second", low=1e-6, high=1e6)
    seconds: float = setting(60.0, help="length of the traffic", low=1e-3, high=1e7)
    prompt: float = setting(2048.0, help="mean tokens of a prompt", low=1, high=_LARGEST)
    output: float = setting(500.0, help="mean tokens of an answer", low=1, high=_LARGEST)
    spread: float = setting(
        0.5, help="standard deviation of the logarithm of lengths", low=0, high=3
    )
    burst: float = setting(
        4.0, help="squared variation of the gaps between bursts", low=1, high=100
    )
    turns: int = setting(4, help="mean requests of a conversation", low=1, high=1000)
    think_s: float = setting(20.0, help="mean seconds before the next turn", low=0, high=1e6)
    prefix: int = setting(
        1024, help="tokens that all conversations begin with", low=0, high=_LARGEST
    )
    block_tokens: int = setting(
        128, help="tokens of a block that can be shared", low=1, high=65_536
    )


def generate(shape: Shape, seed: int = 0) -> Traffic:
    """The traffic of a shape; the same for the same seed.

    Raises ConfigError for more requests than a trace may have.
    """
    if shape.rate * shape.seconds > MAX_REQUESTS:
        what = f"{shape.rate:g} requests a second in {shape.seconds:g} s are more than "
        what += f"{MAX_REQUESTS:,} in all"
        raise ConfigError(what, where="traffic", remedy="lower the rate or the seconds")
    rng = np.random.default_rng(seed)
    if shape.kind == "sessions":
        return _sessions(shape, rng)
    times = _arrivals(shape, shape.rate, rng)
    return Traffic(
        times - times[0] if len(times) else times,
        _lengths(shape.prompt, shape.spread, len(times), rng),
        _lengths(shape.output, shape.spread, len(times), rng),
        block_tokens=shape.block_tokens,
    )


def _arrivals(shape: Shape, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Times of a renewal process; gaps are exponential, or gamma with a larger variation."""
    variation = shape.burst if shape.kind == "bursty" else 1.0
    expected = shape.seconds * rate
    count = int(expected + 8 * np.sqrt(expected * variation) + 16)
    gaps = rng.gamma(1.0 / variation, variation / rate, size=count)
    times = np.cumsum(gaps)
    return times[times < shape.seconds]


def _lengths(mean: float, spread: float, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Lognormal lengths of that mean, at least 1."""
    drawn = rng.lognormal(np.log(mean) - spread**2 / 2, spread, size=count)
    return np.clip(np.rint(drawn), 1, _LARGEST).astype(np.int64)


def _sessions(shape: Shape, rng: np.random.Generator) -> Traffic:
    """Conversations: each turn's prompt is all that was said, and `prompt` new tokens on average."""
    starts = _arrivals(shape, shape.rate / shape.turns, rng)
    rows: list[tuple[float, int, int, tuple[int, ...]]] = []
    common = shape.prefix // shape.block_tokens
    name = common
    for start in starts:
        turns = int(rng.geometric(1.0 / shape.turns))
        new = _lengths(shape.prompt, shape.spread, turns, rng)
        said = _lengths(shape.output, shape.spread, turns, rng)
        waits = rng.exponential(shape.think_s, size=turns)
        when, length, names = float(start), shape.prefix, list(range(common))
        for turn in range(turns):
            length += int(new[turn])
            full = length // shape.block_tokens
            names += range(name, name + full - len(names))
            name += full
            if when >= shape.seconds:
                break
            rows.append((when, length, int(said[turn]), tuple(names)))
            length += int(said[turn])
            when += float(waits[turn])
    rows.sort(key=lambda row: row[0])
    start = rows[0][0] if rows else 0.0
    return Traffic(
        np.array([row[0] - start for row in rows], dtype=np.float64),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.int64),
        tuple(row[3] for row in rows),
        shape.block_tokens,
    )
