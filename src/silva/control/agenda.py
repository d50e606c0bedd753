"""What is due at which step: the scheduler looks up the requests that change instead of all.

A request that decodes needs its next block, and reaches its length, at steps that are known when it
joins. Entering, leaving and taking out cost O(log of the steps noted), whatever else is running.
"""

from __future__ import annotations

import heapq


class Agenda:
    """Request ids by step number; each id is noted at one step at most."""

    def __init__(self) -> None:
        self._due: dict[int, dict[str, None]] = {}
        self._step_of: dict[str, int] = {}
        self._steps: list[int] = []

    def __len__(self) -> int:
        """Requests noted."""
        return len(self._step_of)

    def note(self, request: str, step: int) -> None:
        """The request is due at this step, and no longer at the one noted before."""
        if request in self._step_of:
            self.strike(request)
        self._step_of[request] = step
        due = self._due.get(step)
        if due is None:
            due = self._due[step] = {}
            heapq.heappush(self._steps, step)
        due[request] = None

    def strike(self, request: str) -> None:
        """The request is not due any more; nothing happens if it was not."""
        step = self._step_of.pop(request, None)
        if step is not None:
            del self._due[step][request]

    def step_of(self, request: str) -> int | None:
        """When the request is due."""
        return self._step_of.get(request)

    def due(self, step: int) -> tuple[str, ...]:
        """Requests due at exactly this step, in the order they were noted."""
        return tuple(self._due.get(step, ()))

    def pop(self, step: int) -> tuple[str, ...]:
        """The same, and they are noted no longer."""
        due = self._due.get(step)
        if not due:
            return ()
        requests = tuple(due)
        for request in requests:
            del self._step_of[request]
        due.clear()
        self.first()  # drops steps that are over
        return requests

    def first(self) -> int | None:
        """The earliest step at which anybody is due; None when nobody is."""
        steps, due = self._steps, self._due
        while steps:
            if due[steps[0]]:
                return steps[0]
            del due[heapq.heappop(steps)]
        return None
