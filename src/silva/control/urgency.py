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
        self._sign = -1 if last_first else 1
        self._heap: list[tuple[Order, str]] = []
        self._members: dict[str, Order] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, request: object) -> bool:
        return request in self._members

    def push(self, request: str, order: Order) -> None:
        """Put a request in, or move it to another place."""
        key = (self._sign * order[0], self._sign * order[1], self._sign * order[2])
        if self._members.get(request) != key:
            self._members[request] = key
            heapq.heappush(self._heap, (key, request))
            if len(self._heap) > 64 + 2 * len(self._members):
                self._tidy()

    def remove(self, request: str) -> None:
        """Take a request out; nothing happens if it is not in."""
        self._members.pop(request, None)

    def first(self) -> str | None:
        """The request whose turn it is; None when the queue is empty."""
        while self._heap and self._members.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def pop(self) -> str | None:
        """The same, and it is taken out."""
        request = self.first()
        if request is not None:
            heapq.heappop(self._heap)
            del self._members[request]
        return request

    def _tidy(self) -> None:
        # Requests taken out leave their entries behind, which would pile up under a first one that
        # stays for long.
        self._heap = [(key, request) for request, key in self._members.items()]
        heapq.heapify(self._heap)
