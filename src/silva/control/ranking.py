"""The choices of `silva.control.mapping` for whoever makes many: loads are changed, not collected.

    ranking = Ranking(Role.DECODE, capacity_tokens=[65_536] * 4)
    peer = ranking.choose(needs_tokens=700)      # a number, or None when none is ready
    ranking.add(peer, tokens=700)                # given to it
    ranking.add(peer, tokens=-700, requests=-1)  # done

A change costs O(1), a choice one pass over plain numbers. Peers have numbers instead of names, and
of equal ones the first is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from silva.control.mapping import Role

_Place = tuple[float, float, int]
_AWAY: _Place = (math.inf, math.inf, -1)


class Ranking:
    """Peers of one role, prefill or decode, all of them ready at first."""

    def __init__(self, role: Role, capacity_tokens: Sequence[int]) -> None:
        """`capacity_tokens` of each peer, as in `PeerLoad`; 0: not known."""
        self._capacity = list(capacity_tokens)
        self._by_tokens = role is Role.PREFILL
        self._tokens, self._requests = [0] * len(self._capacity), [0] * len(self._capacity)
        self._ready = [True] * len(self._capacity)
        self._places = [_AWAY] * len(self._capacity)
        for number in range(len(self._capacity)):
            self.add(number, 0, 0)

    def add(self, peer: int, tokens: int, requests: int = 1) -> None:
        """A peer was given so much, or is done with it where numbers are negative."""
        held = self._tokens[peer] = self._tokens[peer] + tokens
        count = self._requests[peer] = self._requests[peer] + requests
        if not self._ready[peer]:
            return
        if self._by_tokens:
            self._places[peer] = (held, count, peer)
        else:
            capacity = self._capacity[peer]
            self._places[peer] = (count, held / capacity if capacity else 0.0, peer)

    def withdraw(self, peer: int) -> None:
        """The peer is not ready: it drains, or is dead."""
        self._ready[peer] = False
        self._places[peer] = _AWAY

    def reset(self, peer: int) -> None:
        """The peer is ready and has nothing."""
        self._ready[peer] = True
        self._tokens[peer] = self._requests[peer] = 0
        self.add(peer, 0, 0)

    def ready(self, peer: int) -> bool:
        """Whether the peer is given requests."""
        return self._ready[peer]

    def choose(self, needs_tokens: int = 0) -> int | None:
        """The peer that `choose_prefill` or `choose_decode` would take."""
        best = min(self._places) if self._places else _AWAY
        if best is _AWAY:
            return None
        if self._by_tokens or not self._overflows(best[2], needs_tokens):
            return best[2]
        ready = (place for place in self._places if place is not _AWAY)
        return min(ready, key=lambda place: (self._overflows(place[2], needs_tokens), place))[2]

    def _overflows(self, peer: int, needs_tokens: int) -> bool:
        capacity = self._capacity[peer]
        return 0 < capacity < self._tokens[peer] + needs_tokens
