"""What is due at which step: the scheduler looks up the requests that change instead of all.

A request that decodes needs its next block, and reaches its length, at steps that are known when it
joins. Entering, leaving and taking out cost O(log of the requests noted), whatever else is running.
"""

from __future__ import annotations

import heapq

NEVER = 1 << 62
"""A step that no engine gets to."""

_Item = tuple[int, int, str]
"""A step, a number that grows, and the request that is due then."""


class Agenda:
    """Request ids by step number; each id is noted at one step at most."""

    def __init__(self) -> None:
        self._noted: dict[str, _Item] = {}
        self._heap: list[_Item] = []
        """Those noted, and others that were and are not any more, the latter never at the top."""
        self._number = 0
        self.next = NEVER
        """The earliest step at which anybody is due; NEVER when nobody is. To be read only."""

    def __len__(self) -> int:
        """Requests noted."""
        return len(self._noted)

    def note(self, request: str, step: int) -> None:
        """The request is due at this step, and no longer at the one noted before."""
        noted = self._noted
        if request in noted:
            self.strike(request)
        self._number += 1
        item = noted[request] = (step, self._number, request)
        heapq.heappush(self._heap, item)
        if step < self.next:
            self.next = step

    def strike(self, request: str) -> None:
        """The request is not due any more; nothing happens if it was not."""
        item = self._noted.pop(request, None)
        if item is not None:
            if item is self._heap[0]:
                self._find_next()
            elif len(self._heap) > 64 + 2 * len(self._noted):
                self._heap = list(self._noted.values())
                heapq.heapify(self._heap)

    def step_of(self, request: str) -> int | None:
        """When the request is due."""
        item = self._noted.get(request)
        return None if item is None else item[0]

    def due(self, step: int) -> tuple[str, ...]:
        """Requests due at exactly this step, in the order they were noted."""
        requests = self.pop(step)
        for request in requests:
            self.note(request, step)
        return requests

    def pop(self, step: int) -> tuple[str, ...]:
        """The same, and they are noted no longer. Slow where somebody is due before that step."""
        if step != self.next:
            return self._pop_later(step) if step > self.next else ()
        heap, noted, requests = self._heap, self._noted, []
        while heap and heap[0][0] == step:
            item = heapq.heappop(heap)
            if noted.get(item[2]) is item:
                del noted[item[2]]
                requests.append(item[2])
        self._find_next()
        return tuple(requests)

    def _pop_later(self, step: int) -> tuple[str, ...]:
        late = tuple(request for at, _, request in sorted(self._noted.values()) if at == step)
        for request in late:
            self.strike(request)
        return late

    def _find_next(self) -> None:
        """Drops what is noted no longer from the top of the heap."""
        heap, noted = self._heap, self._noted
        while heap:
            first = heap[0]
            if noted.get(first[2]) is first:
                self.next = first[0]
                return
            heapq.heappop(heap)
        self.next = NEVER
