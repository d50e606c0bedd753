"""Consistent hashing: which cache peer is responsible for a key.

Every peer stands at many points of a circle; a key belongs to the peer at the next point. Adding
one of N + 1 peers moves about 1 / (N + 1) of the keys, all of them to the new peer; removing one
moves its own keys and no others (Karger et al. 1997). All processes that know the same peers agree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from hashlib import sha256

POINTS = 128
"""Points of each peer: the share of one deviates from 1 / N by about 1 / sqrt(POINTS)."""


class Ring:
    """An immutable circle of peers; changes make a new one.

    The order in which peers were added does not matter: equal peers mean an equal ring.
    """

    def __init__(self, peers: Iterable[str] = (), points: int = POINTS) -> None:
        if points < 1:
            raise ValueError(f"points must be at least 1, but is {points}")
        self.points = points
        self.peers: tuple[str, ...] = tuple(sorted(set(peers)))
        circle = sorted(
            (_position(f"{number} {peer}".encode()), peer)
            for peer in self.peers
            for number in range(points)
        )
        self._positions = [position for position, _ in circle]
        self._owners = [peer for _, peer in circle]

    def __len__(self) -> int:
        return len(self.peers)

    def with_peer(self, peer: str) -> Ring:
        """The ring with one peer more."""
        return Ring((*self.peers, peer), self.points)

    def without_peer(self, peer: str) -> Ring:
        """The ring with one peer less."""
        return Ring((each for each in self.peers if each != peer), self.points)

    def owner(self, key: bytes) -> str | None:
        """The peer responsible for a key; None on an empty ring."""
        if not self.peers:
            return None
        return self._owners[bisect_right(self._positions, _position(key)) % len(self._owners)]

    def owners(self, key: bytes, count: int) -> tuple[str, ...]:
        """The first `count` different peers from the key's place on, its owner first.

        Fewer where there are fewer. The second is the one that takes over when the first is gone.
        """
        start = bisect_right(self._positions, _position(key))
        found: dict[str, None] = {}
        for step in range(len(self._owners)):
            if len(found) >= count:
                break
            found[self._owners[(start + step) % len(self._owners)]] = None
        return tuple(found)

    def by_owner(self, keys: Iterable[bytes]) -> dict[str, tuple[bytes, ...]]:
        """Keys dealt to their owners, in the order given; empty on an empty ring."""
        dealt: dict[str, list[bytes]] = {}
        for key in keys:
            owner = self.owner(key)
            if owner is not None:
                dealt.setdefault(owner, []).append(key)
        return {owner: tuple(own) for owner, own in dealt.items()}


def _position(content: bytes) -> int:
    return int.from_bytes(sha256(content).digest()[:8], "big")
