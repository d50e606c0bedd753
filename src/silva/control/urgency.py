"""A queue in order of urgency from which any request can be taken out."""

from __future__ import annotations

import heapq

Order = tuple[int, float, int]
"""(priority, arrival in seconds, running number): smaller is more urgent, no two are equal."""


class UrgencyQueue:
    """Requests in order, the most urgent first; or, `last_first`, the least urgent.

    A request stands in it once at most. All operations cost O(log n), spread over many calls.
    """

    def __init__(self, *, last_first: bool = False) -> None:
        self._last_first = last_first
        self._heap: list[tuple[Order, str]] = []
        self.members: dict[str, Order] = {}
        """Requests that stand in it, for whoever asks often whether there are any. To be read only."""

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, request: object) -> bool:
        return request in self.members

    def push(self, request: str, order: Order) -> None:
        """Put a request in, or move it to another place."""
        key = (-order[0], -order[1], -order[2]) if self._last_first else order
        if self.members.get(request) != key:
            self.members[request] = key
            heapq.heappush(self._heap, (key, request))
            if len(self._heap) > 64 + 2 * len(self.members):
                self._tidy()

    def remove(self, request: str) -> None:
        """Take a request out; nothing happens if it is not in."""
        self.members.pop(request, None)

    def first(self) -> str | None:
        """The request whose turn it is; None when the queue is empty."""
        heap, members = self._heap, self.members
        while heap:
            key, request = heap[0]
            if members.get(request) == key:
                return request
            heapq.heappop(heap)
        return None

    def pop(self) -> str | None:
        """The same, and it is taken out."""
        request = self.first()
        if request is not None:
            heapq.heappop(self._heap)
            del self.members[request]
        return request

    def _tidy(self) -> None:
        # Requests taken out leave their entries behind, which would pile up under a first one that
        # stays for long.
        self._heap = [(key, request) for request, key in self.members.items()]
        heapq.heapify(self._heap)
