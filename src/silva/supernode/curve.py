"""A function through points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

Piece = tuple[float, float, float, float]
"""Between two points: the first one's place, how far it is to the next, the value, and its rise."""


def pieces(places: Sequence[float], values: Sequence[float]) -> tuple[Piece, ...]:
    """One between each two points."""
    points = zip(pairwise(places), pairwise(values), strict=True)
    return tuple(
        (low, high - low, first, second - first) for (low, high), (first, second) in points
    )


class Curve:
    """A function through points, straight between them and beyond the last two."""

    def __init__(self, places: Sequence[float], values: Sequence[float]) -> None:
        self.places, self.values = list(places), list(values)
        self._inner, self._pieces = self.places[1:-1], pieces(self.places, self.values)

    def at(self, place: float) -> float:
        """The value at a place; below the first point, and of one alone, that of the first."""
        if place <= self.places[0] or not self._pieces:
            return self.values[0]
        low, span, value, rise = self._pieces[bisect_right(self._inner, place)]
        return value + (place - low) / span * rise

    def within(self, place: float) -> float:
        """The same, but beyond the last point that of the last."""
        return self.at(min(place, self.places[-1]))
