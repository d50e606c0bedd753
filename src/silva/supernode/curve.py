"""A function through points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


class Curve:
    """A function through points, straight between them and beyond the last two."""

    def __init__(self, places: Sequence[float], values: Sequence[float]) -> None:
        self.places, self.values = list(places), list(values)

    def at(self, place: float) -> float:
        """The value at a place; below the first point, and of one alone, that of the first."""
        places, values = self.places, self.values
        if place <= places[0] or len(places) == 1:
            return values[0]
        i = min(bisect_right(places, place), len(places) - 1)
        low, high = places[i - 1], places[i]
        return values[i - 1] + (place - low) / (high - low) * (values[i] - values[i - 1])

    def within(self, place: float) -> float:
        """The same, but beyond the last point that of the last."""
        return self.at(min(place, self.places[-1]))
