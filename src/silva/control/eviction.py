"""Who must leave a full tier of the cache: least recently used, with quotas and pins.

One `TierPolicy` decides for one tier, RAM or disk, in bytes. It holds no content: its owner stores
what is inserted and deletes what is evicted. Under write-through the same key is inserted into the
policies of both tiers, and each evicts on its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass
class _Item:
    size_bytes: int
    namespace: str
    pins: int = 0


class TierPolicy(Generic[K]):
    """LRU over keys with sizes, within a capacity and, per namespace, within a quota.

    capacity_bytes  what the tier may hold in all
    quota_bytes     what one namespace may hold; None: the whole tier
    quotas          other quotas for single namespaces, in bytes

    A namespace over its quota evicts its own keys only; a full tier evicts the least recently used
    key of any namespace. A pinned key (somebody reads it right now) is never evicted. Always
    `used_bytes <= capacity_bytes`, and each namespace's bytes are within its quota.
    """

    def __init__(
        self,
        capacity_bytes: int,
        *,
        quota_bytes: int | None = None,
        quotas: Mapping[str, int] | None = None,
    ) -> None:
        if capacity_bytes < 0:
            raise ValueError(f"capacity_bytes must not be negative, but is {capacity_bytes}")
        self.capacity_bytes = capacity_bytes
        self._quota = capacity_bytes if quota_bytes is None else quota_bytes
        self._quotas = dict(quotas or {})
        self._items: dict[K, _Item] = {}
        # Unpinned keys only, least recently used first; each stands in both orders.
        self._order: OrderedDict[K, None] = OrderedDict()
        self._orders: dict[str, OrderedDict[K, None]] = {}
        self._used = 0
        self._used_by: dict[str, int] = {}
        self._pinned = 0
        self._pinned_by: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    @property
    def used_bytes(self) -> int:
        """Bytes of all keys held, pinned ones among them."""
        return self._used

    def used_by(self, namespace: str) -> int:
        """Bytes held for one namespace."""
        return self._used_by.get(namespace, 0)

    def quota_of(self, namespace: str) -> int:
        """Most bytes that one namespace may hold."""
        return self._quotas.get(namespace, self._quota)

    def fits(self, size_bytes: int, namespace: str = "") -> bool:
        """Whether a new key of this size can be taken in, evicting what is not pinned."""
        within_quota = self._pinned_by.get(namespace, 0) + size_bytes <= self.quota_of(namespace)
        return within_quota and self._pinned + size_bytes <= self.capacity_bytes

    def insert(self, key: K, size_bytes: int, namespace: str = "") -> tuple[K, ...] | None:
        """Take a key in as the most recently used; the keys that had to go, oldest first.

        None when it does not fit even so (`fits`): then nothing was evicted and the key is not
        held. A key already held is touched. The caller deletes the evicted keys' content *before*
        it writes the new content, or the tier overflows for a moment.

        Raises ValueError for a negative size, and for a held key that comes with another size or
        namespace: content addresses do not change their content.
        """
        if size_bytes < 0:
            raise ValueError(f"size_bytes must not be negative, but is {size_bytes}")
        held = self._items.get(key)
        if held is not None:
            if (held.size_bytes, held.namespace) != (size_bytes, namespace):
                raise ValueError(
                    f"key {key!r} is held with {held.size_bytes} bytes in namespace "
                    f"{held.namespace!r}, not {size_bytes} in {namespace!r}"
                )
            self.touch(key)
            return ()
        if not self.fits(size_bytes, namespace):
            return None
        evicted = self._make_room(size_bytes, namespace)
        self._items[key] = _Item(size_bytes, namespace)
        self._count(namespace, size_bytes)
        self._line_up(key, namespace)
        return evicted

    def touch(self, key: K) -> bool:
        """Make a key the most recently used one; False when it is not held."""
        item = self._items.get(key)
        if item is None:
            return False
        if not item.pins:
            self._order.move_to_end(key)
            self._orders[item.namespace].move_to_end(key)
        return True

    def remove(self, key: K) -> bool:
        """Forget a key, its content was deleted or found broken; False when it is not held.

        Raises ValueError while it is pinned: its reader must let go first.
        """
        item = self._items.get(key)
        if item is None:
            return False
        if item.pins:
            raise ValueError(f"key {key!r} is pinned {item.pins} times and cannot be removed")
        self._forget(key, item)
        return True

    def pin(self, key: K) -> bool:
        """Keep a key from being evicted until as many `unpin` as `pin`; False when not held."""
        item = self._items.get(key)
        if item is None:
            return False
        if not item.pins:
            self._step_out(key, item.namespace)
            self._count_pinned(item.namespace, item.size_bytes)
        item.pins += 1
        return True

    def unpin(self, key: K) -> None:
        """Take one pin back; with the last the key is the most recently used one.

        Raises ValueError for a key that is not pinned.
        """
        item = self._items.get(key)
        if item is None or not item.pins:
            raise ValueError(f"key {key!r} is not pinned")
        item.pins -= 1
        if not item.pins:
            self._count_pinned(item.namespace, -item.size_bytes)
            self._line_up(key, item.namespace)

    def oldest_first(self) -> tuple[K, ...]:
        """Keys that may be evicted, least recently used first: the order to write down on exit."""
        return tuple(self._order)

    def _make_room(self, size_bytes: int, namespace: str) -> tuple[K, ...]:
        evicted: list[K] = []
        while self.used_by(namespace) + size_bytes > self.quota_of(namespace):
            evicted.append(self._evict(next(iter(self._orders[namespace]))))
        while self._used + size_bytes > self.capacity_bytes:
            evicted.append(self._evict(next(iter(self._order))))
        return tuple(evicted)

    def _evict(self, key: K) -> K:
        self._forget(key, self._items[key])
        return key

    def _forget(self, key: K, item: _Item) -> None:
        self._step_out(key, item.namespace)
        self._count(item.namespace, -item.size_bytes)
        del self._items[key]

    def _line_up(self, key: K, namespace: str) -> None:
        self._order[key] = None
        self._orders.setdefault(namespace, OrderedDict())[key] = None

    def _step_out(self, key: K, namespace: str) -> None:
        del self._order[key]
        own = self._orders[namespace]
        del own[key]
        if not own:
            del self._orders[namespace]

    def _count(self, namespace: str, size_bytes: int) -> None:
        self._used += size_bytes
        _add(self._used_by, namespace, size_bytes)

    def _count_pinned(self, namespace: str, size_bytes: int) -> None:
        self._pinned += size_bytes
        _add(self._pinned_by, namespace, size_bytes)


def _add(counts: dict[str, int], name: str, amount: int) -> None:
    """Add to a count and drop it at zero, so that namespaces long gone take no memory."""
    total = counts.get(name, 0) + amount
    if total:
        counts[name] = total
    else:
        counts.pop(name, None)
