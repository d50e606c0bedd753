"""Blocks that a computing peer lets the cache peers fetch: pinned meanwhile, so many at a time.

What waits is not pinned. A block that its pool gave to others by then is left out: it was only a
copy that would have spared work. So neither a slow cache nor a long prompt takes memory from
requests, beyond the share that is pinned.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from silva.control.request import StoredBlock
from silva.control.scheduler import pin, unpin
from silva.control.state import State
from silva.serving.peers.cached import CacheClient

AT_ONCE = 32
"""Blocks of one offer: their checksums are computed by the thread that asks for lookups, too."""

PINNED_SHARE = 8
"""One in so many blocks of the pool may be pinned for the cache."""


class Offers:
    """See the module. Belongs to the peer's own thread."""

    def __init__(self, state: State, cache: CacheClient) -> None:
        self._state, self._cache = state, cache
        self._room = max(1, state.pool.total // PINNED_SHARE)
        self._waiting: OrderedDict[bytes, StoredBlock] = OrderedDict()

    def add(self, blocks: Sequence[StoredBlock]) -> None:
        """Offer complete blocks; of a sequence the first first.

        They go in the opposite order: the cache gives up what was used longest ago, and without the
        beginning of a prefix the rest of it is of no use.
        """
        self._waiting |= {block.key: block for block in reversed(blocks)}
        while len(self._waiting) > self._state.pool.total:
            self._waiting.popitem(last=False)
        self._go_on()

    def _go_on(self) -> None:
        if not self._cache.members:
            self._waiting.clear()
        while self._waiting and self._room:
            batch = self._next()
            if not batch:
                continue
            held = [block.block for block in batch]
            pin(self._state, held)
            self._room -= len(held)
            by_key = {block.key: block.block for block in batch}
            self._cache.offer(batch[0].namespace, by_key, partial(self._over, held))

    def _next(self) -> list[StoredBlock]:
        """The longest waiting blocks of one namespace, those of them that are still there."""
        namespace = next(iter(self._waiting.values())).namespace
        batch: list[StoredBlock] = []
        while self._waiting and len(batch) < min(AT_ONCE, self._room):
            key, block = next(iter(self._waiting.items()))
            if block.namespace != namespace:
                break
            del self._waiting[key]
            if self._state.index.find(key) == block.block:
                batch.append(block)
        return batch

    def _over(self, held: Sequence[int]) -> None:
        """The cache has fetched these, or will not."""
        unpin(self._state, held)
        self._room += len(held)
        self._go_on()
