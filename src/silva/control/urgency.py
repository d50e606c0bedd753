"""A queue in order of urgency from which any request can be taken out."""

from __future__ import annotations

import heapq

Order = tuple[int, float, int]
"""(priority, arrival in seconds, running number): smaller is more urgent, no two are equal."""


class UrgencyQueue:
    """Requests in order, the most urgent first; or, `last_first`, the least urgent.

    A request stands in it once at most. All operations cost O(log n), spread over many calls. Who
    comes is sorted in when somebody asks for the first: where nobody does, coming costs O(1).
    """

    def __init__(self, *, last_first: bool = False) -> None:
        self._last_first = last_first
        self._heap: list[tuple[Order, str]] = []
        self._new: list[tuple[Order, str]] = []
        """Requests that came since somebody asked."""
        self.members: dict[str, Order] = {}
        """Requests that stand in it, for whoever asks often whether there are any. To be read only."""

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, request: object) -> bool:
        return request in self.members

    def push(self, request: str, order: Order) -> None:
        """Put a request in, or move it to another place."""
        members = self.members
        if members.get(request) != order:
            members[request] = order
            self._new.append((order, request))
            if len(self._new) > 64 + 2 * len(members):
                self._tidy()

    def remove(self, request: str) -> None:
        """Take a request out; nothing happens if it is not in."""
        self.members.pop(request, None)

    def first(self) -> str | None:
        """The request whose turn it is; None when the queue is empty."""
        members = self.members
        if len(members) < 2:
            return next(iter(members), None)
        if self._new:
            self._sort_in()
        heap = self._heap
        while True:
            key, request = heap[0]
            if members.get(request) == (_reverse(key) if self._last_first else key):
                return request
            heapq.heappop(heap)

    def pop(self) -> str | None:
        """The same, and it is taken out."""
        request = self.first()
        if request is not None:
            del self.members[request]
        return request

    def _sort_in(self) -> None:
        if len(self._heap) > 64 + 2 * len(self.members):
            self._tidy()
        for order, request in self._new:
            key = _reverse(order) if self._last_first else order
            heapq.heappush(self._heap, (key, request))
        self._new.clear()

    def _tidy(self) -> None:
        # Requests taken out leave their entries behind, which would pile up under a first one that
        # stays for long.
        self._new = [(order, request) for request, order in self.members.items()]
        self._heap.clear()


def _reverse(order: Order) -> Order:
    return (-order[0], -order[1], -order[2])
