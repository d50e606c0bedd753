"""How many tokens each expert was sent of late: the load that placement works with."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from silva.control.placement_table import Floats, Ints


class LoadWindow:
    """Tokens by layer and expert over the last `span_s` seconds. Time must not run backwards.

    The window moves on in `parts` steps: what `load` reports is between ``span_s (1 - 1/parts)``
    and `span_s` old, and memory holds `parts` tables.
    """

    def __init__(self, layers: int, experts: int, span_s: float, parts: int = 10) -> None:
        if not span_s > 0 or min(layers, experts, parts) < 1:
            raise ValueError("span_s, layers, experts and parts must be positive")
        self.span_s = span_s
        self._part_s, self._parts = span_s / parts, parts
        self._tables: deque[tuple[int, Ints]] = deque()
        self._sum = np.zeros((layers, experts), np.int64)

    def add(self, counts: NDArray[np.integer], now_s: float) -> None:
        """Tokens sent to each expert [layers, experts] since the last call."""
        if counts.shape != self._sum.shape or (counts < 0).any():
            raise ValueError(f"counts must be [layers, experts] = {self._sum.shape}, not negative")
        part = self._move_on(now_s)
        if not self._tables or self._tables[-1][0] != part:
            self._tables.append((part, np.zeros_like(self._sum)))
        self._tables[-1][1].__iadd__(counts)
        self._sum += counts

    def load(self, now_s: float) -> Floats:
        """Tokens in the window [layers, experts]; all zero where nothing was sent."""
        self._move_on(now_s)
        return self._sum.astype(np.float64)

    def _move_on(self, now_s: float) -> int:
        part = int(now_s // self._part_s)
        while self._tables and self._tables[0][0] <= part - self._parts:
            self._sum -= self._tables.popleft()[1]
        return part
