"""How long prompts and answers are: fixed, uniform or lognormal, in tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silva.errors import ConfigError
from silva.serving.bench.arrivals import CHUNK

MOST_TOKENS = 10_000_000
_SPEC = re.compile(r"\s*([a-z]+)\s*\(([^()]*)\)\s*")
_NUMBERS = {"fixed": (1, 1), "uniform": (2, 2), "lognormal": (2, 3)}
"""How many numbers each distribution takes, at least and at most."""


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths; every draw is between 1 and `most`.

    fixed(n); uniform(a, b), both ends included; lognormal(mean, cv), with cv the standard deviation
    in means. Mean and cv are those before draws above `most` are cut to it.
    """

    kind: str
    numbers: tuple[float, ...]
    most: int = MOST_TOKENS

    def stream(self, rng: np.random.Generator) -> Iterator[int]:
        """Lengths without end."""
        while True:
            yield from self.draw(rng, CHUNK).tolist()

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """`count` lengths."""
        if self.kind == "fixed":
            drawn = np.full(count, self.numbers[0])
        elif self.kind == "uniform":
            low, high = self.numbers
            drawn = rng.integers(int(low), int(high), count, endpoint=True).astype(np.float64)
        else:
            mean, cv = self.numbers
            # log X is normal with variance log(1 + cv^2) and a mean that makes E[X] = mean.
            variance = np.log1p(cv**2)
            drawn = rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), count)
        return np.clip(np.rint(drawn), 1, self.most).astype(np.int64)


def parse_lengths(text: str, where: str) -> Lengths:
    """ "512", "fixed(512)", "uniform(1,900)", "lognormal(512,0.8)" or "lognormal(512,0.8,4096)".

    `where` names the setting in the ConfigError for anything else.
    """
    match = _SPEC.fullmatch(text)
    kind, inner = match.groups() if match else ("fixed", text)
    try:
        numbers = tuple(float(part) for part in inner.split(","))
    except ValueError:
        numbers = ()
    least, most = _NUMBERS.get(kind, (0, -1))
    if not least <= len(numbers) <= most or not _sensible(kind, numbers):
        raise ConfigError(
            f"{text[:60]!r} is no distribution of lengths",
            where=where,
            remedy="write 512, uniform(1,900), lognormal(512,0.8) or lognormal(512,0.8,4096)",
        )
    if kind == "lognormal" and len(numbers) == 3:
        return Lengths(kind, numbers[:2], int(numbers[2]))
    return Lengths(kind, numbers)


def _sensible(kind: str, numbers: tuple[float, ...]) -> bool:
    """Tokens are whole numbers from 1 to MOST_TOKENS; a cv is none of them."""
    tokens = [n for place, n in enumerate(numbers) if (kind, place) != ("lognormal", 1)]
    if not all(1 <= n <= MOST_TOKENS for n in tokens):
        return False
    if kind == "lognormal":
        return 0 <= numbers[1] <= 100 and (len(numbers) < 3 or numbers[2] == int(numbers[2]))
    return all(n == int(n) for n in tokens) and list(tokens) == sorted(tokens)
