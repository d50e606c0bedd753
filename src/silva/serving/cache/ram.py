"""The RAM tier: blocks in one exposed region, least recently used ones evicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from silva.control.eviction import TierPolicy
from silva.serving.cache.arena import Arena, rounded
from silva.serving.cache.names import BlockId
from silva.transfer import Exposed, Piece, checksum


@dataclass
class Slot:
    """A block's place in the region. While it is not ready only whoever fills it may touch it."""

    offset: int
    length: int
    checksum: int = 0
    ready: bool = False
    from_disk: bool = False
    """Filled from the disk: others that want it wait. One on its way from a peer is missed."""


class RamTier:
    """Blocks in memory that others read. Not for several threads at once: the store has a lock."""

    def __init__(
        self,
        exposed: Exposed,
        *,
        quota_bytes: int | None = None,
        quotas: Mapping[str, int] | None = None,
    ) -> None:
        self.evictions = 0
        self._exposed, self._buffer = exposed, exposed.buffer
        self._arena = Arena(exposed.region.size)
        self._policy: TierPolicy[BlockId] = TierPolicy(
            self._arena.capacity_bytes, quota_bytes=quota_bytes, quotas=quotas
        )
        self._slots: dict[BlockId, Slot] = {}

    @property
    def used_bytes(self) -> int:
        return self._policy.used_bytes

    def __len__(self) -> int:
        return len(self._slots)

    def held(self) -> tuple[BlockId, ...]:
        """All blocks that have a place, ready or not."""
        return tuple(self._slots)

    def get(self, block: BlockId) -> Slot | None:
        """A block's place, ready or not; this is no use of it."""
        return self._slots.get(block)

    def pin(self, block: BlockId) -> None:
        """Keep a block that is held until as many `unpin`; unpinning is a use of it."""
        self._policy.pin(block)

    def unpin(self, block: BlockId) -> None:
        self._policy.unpin(block)

    def touch(self, block: BlockId) -> None:
        """The block was used."""
        self._policy.touch(block)

    def piece(self, slot: Slot) -> Piece:
        """What a reader is told."""
        return Piece(self._exposed.region, slot.offset, slot.length, slot.checksum)

    def view(self, slot: Slot) -> memoryview:
        """A slot's bytes."""
        return self._buffer[slot.offset : slot.offset + slot.length]

    def take(self, block: BlockId, length: int) -> tuple[Slot | None, list[BlockId]]:
        """A pinned place for a block that is not held, and the blocks that had to go for it.

        None when there is no room though everything went that is not pinned, or the namespace's
        quota is too small.
        """
        size = rounded(length)
        going = self._policy.insert(block, size, block.space)
        if going is None:
            return None, []
        self._policy.pin(block)
        evicted = list(going)
        for each in going:
            self._free(each)
        offset = self._arena.take(length)
        if offset is None:
            # Bytes enough, but in gaps between blocks of other sizes.
            for each in self._policy.oldest_first():
                self._policy.remove(each)
                self._free(each)
                evicted.append(each)
                offset = self._arena.take(length)
                if offset is not None:
                    break
        self.evictions += len(evicted)
        if offset is None:
            self._policy.unpin(block)
            self._policy.remove(block)
            return None, evicted
        self._slots[block] = Slot(offset, length)
        return self._slots[block], evicted

    def finish(self, block: BlockId, payload_checksum: int) -> None:
        """The place that `take` gave is filled, and verified. It stays pinned."""
        slot = self._slots[block]
        slot.checksum, slot.ready = payload_checksum, True

    def abandon(self, block: BlockId) -> None:
        """The place that `take` gave could not be filled."""
        self._policy.unpin(block)
        self._policy.remove(block)
        self._free(block)

    def heal(self, block: BlockId) -> bool:
        """Drop a block whose bytes are no longer what they were; whether it was dropped.

        One that is pinned stays: its readers find out by themselves.
        """
        slot = self._slots[block]
        if not slot.ready or checksum(self.view(slot)) == slot.checksum:
            return False
        try:
            self._policy.remove(block)
        except ValueError:
            return False
        self._free(block)
        return True

    def _free(self, block: BlockId) -> None:
        slot = self._slots.pop(block)
        self._arena.give_back(slot.offset, slot.length)
