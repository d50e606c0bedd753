"""Cores that several processes share: a fluid model of who runs how fast.

A task has seconds of work, those that it would take by itself. Threads share the cores equally once
there are more of them; engines that run beside each other are slower by what was measured, since
they share memory and caches as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Task:
    """Work under way. `engine`: whose step it is; "" for what runs beside the engines."""

    left_s: float
    end: Callable[[], None]
    threads: int = 1
    engine: str = ""
    beside: float = 1.0
    """How many times as long it takes while another engine computes."""


class Cores:
    """Tasks and the clock. `beside_shared`: how many threads a core had when `beside` was measured."""

    def __init__(self, cores: int, beside_shared: float = 1.0) -> None:
        self.cores, self._shared = cores, max(1.0, beside_shared)
        self.now_s = 0.0
        self._tasks: list[Task] = []

    def add(self, task: Task) -> None:
        """Begin."""
        self._tasks.append(task)

    def next_s(self) -> float:
        """When the first of them will end if none is added before; infinite without any."""
        rates = self._rates()
        pairs = zip(self._tasks, rates, strict=True)
        return self.now_s + min((task.left_s / rate for task, rate in pairs), default=math.inf)

    def advance(self, to_s: float) -> list[Task]:
        """Let time pass, at most until the first one ends; those that have ended."""
        passed = max(0.0, to_s - self.now_s)
        for task, rate in zip(self._tasks, self._rates(), strict=True):
            task.left_s -= passed * rate
        self.now_s = max(self.now_s, to_s)
        # A nanosecond of work is rounding.
        over = [task for task in self._tasks if task.left_s <= 1e-9]
        self._tasks = [task for task in self._tasks if task.left_s > 1e-9]
        return over

    def _rates(self) -> list[float]:
        """Work done a second by each task."""
        threads = sum(task.threads for task in self._tasks)
        share = min(1.0, self.cores / max(1, threads))
        engines = sum(bool(task.engine) for task in self._tasks)
        return [
            share / max(1.0, task.beside / self._shared) if task.engine and engines > 1 else share
            for task in self._tasks
        ]
