"""The context cache of a cluster: instances on a ring, each with its share of the memory.

The same consistent hashing as the server's says who holds a key, and each instance evicts what was
used the longest ago (CloudMatrix-Infer, section 4.4). An instance that is lost loses what it held;
its keys belong to its neighbours on the ring until it is back, empty.
"""

from __future__ import annotations

from collections.abc import Iterable

from silva.control.eviction import TierPolicy
from silva.control.ring import Ring


class ContextPool:
    """Which blocks are cached, by their keys; all of one size."""

    def __init__(self, instances: int, total_bytes: int, block_bytes: int) -> None:
        self._share_bytes, self._block_bytes = total_bytes // instances, block_bytes
        self._tiers = {
            f"cache-{number}": TierPolicy[bytes](self._share_bytes) for number in range(instances)
        }
        self._ring = Ring(self._tiers)
        self.instances = instances

    def __len__(self) -> int:
        """Blocks that are cached."""
        return sum(len(tier) for tier in self._tiers.values())

    def found(self, keys: Iterable[bytes]) -> list[bytes]:
        """The leading run of keys that are cached; they are used now."""
        run = []
        for key in keys:
            owner = self._ring.owner(key)
            if owner is None or not self._tiers[owner].touch(key):
                break
            run.append(key)
        return run

    def insert(self, key: bytes) -> None:
        """A block was computed and is stored, where an instance is up."""
        owner = self._ring.owner(key)
        if owner is not None:
            self._tiers[owner].insert(key, self._block_bytes)

    def lose(self, instance: int) -> None:
        """What the instance held is lost, and it owns no keys."""
        name = f"cache-{instance}"
        self._tiers[name] = TierPolicy[bytes](self._share_bytes)
        self._ring = self._ring.without_peer(name)

    def restore(self, instance: int) -> None:
        """The instance is back, empty. What its neighbours took in for it is not found any more."""
        self._ring = self._ring.with_peer(f"cache-{instance}")
