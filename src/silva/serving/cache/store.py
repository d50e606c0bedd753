"""What a cache peer keeps: blocks of keys and values, by their content's key, in two tiers.

    store = BlockStore(StoreConfig(ram_bytes=1 << 30, disk_bytes=4 << 30, folder=path), transfer)
    store.put_many(keys, namespace, pieces, reader=transfer, now_s=now_s)    # pulled and verified
    pieces = store.lookup(keys, namespace, now_s, holder="prefill-0/17")     # to be read elsewhere
    store.release("prefill-0/17", now_s)

RAM is one region that peers read from; what is evicted there stays on disk, where everything is
written through, in the background, from RAM. The queue of the writer is the RAM tier itself: a
block waits in its place, costs no copy and delays no `put`; if RAM needs the place sooner than the
disk takes the block, it is lost and counted. Each tier evicts by its own least recent use.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from silva.control.lease import Leases
from silva.errors import ConfigError
from silva.serving.cache.disk import DiskTier
from silva.serving.cache.names import BlockId, block_id, space_of
from silva.serving.cache.ram import RamTier, Slot
from silva.serving.cache.writer import Writer
from silva.transfer import Piece, Transfer

LEASE_S = 10.0
PULL_AT_ONCE = 64
"""Blocks of one `put_many` that are on their way together: all of them are pinned meanwhile."""

Kept = Literal["stored", "known", "refused", "failed"]
"""stored: pulled and verified. known: it was here. refused: no room. failed: it did not arrive."""


@dataclass(frozen=True)
class StoreConfig:
    """Sizes of a store. `quotas` are bytes by namespace, in each tier; others have the share."""

    ram_bytes: int
    disk_bytes: int = 0
    folder: Path | None = None
    """Of this store alone. Needed for a disk tier."""
    namespace_share: float = 1.0
    """Most of each tier that one namespace may fill."""
    quotas: Mapping[str, int] = field(default_factory=dict)
    lease_s: float = LEASE_S
    """How long a piece that was handed out stays, unless it is released before."""


@dataclass(frozen=True)
class StoreStats:
    """Counts since the start, and what is held now (bytes as the tiers count them)."""

    ram_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    stored: int = 0
    known: int = 0
    refused: int = 0
    failed: int = 0
    healed: int = 0
    """Blocks in RAM that were found changed, and dropped."""
    ram_bytes: int = 0
    ram_blocks: int = 0
    ram_evictions: int = 0
    disk_bytes: int = 0
    disk_blocks: int = 0
    disk_evictions: int = 0
    corrupt: int = 0
    """Files that were damaged, and deleted."""
    write_errors: int = 0
    unwritten: int = 0
    """Blocks that wait to be written to disk."""
    lost_unwritten: int = 0
    """Blocks that left RAM before they were written."""
    disk_healthy: bool = True
    leases: int = 0


@dataclass
class _Counts:
    ram_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    stored: int = 0
    known: int = 0
    refused: int = 0
    failed: int = 0
    healed: int = 0


class BlockStore:
    """Blocks by (namespace, key). All methods block, and may be called by many threads at once."""

    def __init__(self, config: StoreConfig, transfer: Transfer) -> None:
        """ConfigError when the memory cannot be had or the folder cannot be used."""
        self._config = config
        # One lock for RAM, leases and the writer's list; the disk has its own, always the inner.
        self._changed = threading.Condition()
        self._counts, self._closed = _Counts(), False
        self._leases = Leases()
        self._leased: dict[int, list[BlockId]] = {}
        quotas = {space_of(name): size for name, size in config.quotas.items()}
        self._disk: DiskTier | None = None
        if config.folder is not None and config.disk_bytes > 0:
            share = int(config.disk_bytes * config.namespace_share)
            self._disk = DiskTier(
                config.folder, config.disk_bytes, quota_bytes=share, quotas=quotas
            )
        try:
            self._exposed = transfer.allocate(config.ram_bytes)
        except ConfigError as error:
            remedy = "ask for less with --cache-ram"
            raise ConfigError(error.what, where="the cache's RAM tier", remedy=remedy) from error
        share = int(config.ram_bytes * config.namespace_share)
        self._ram = RamTier(self._exposed, quota_bytes=share, quotas=quotas)
        self._writer = Writer(self._ram, self._disk, self._changed)

    def contains(self, keys: Sequence[bytes], namespace: str) -> list[bool]:
        """Whether each key is here, in RAM or on disk; without reading or touching anything."""
        blocks = [block_id(space_of(namespace), key) for key in keys]
        with self._changed:
            return [self._holds(block) for block in blocks]

    def lookup(
        self, keys: Sequence[bytes], namespace: str, now_s: float, holder: str
    ) -> list[Piece | None]:
        """A piece for each key that is here, None for the others; disk hits are read into RAM.

        The pieces stay as they are until `release(holder)`, or until the lease runs out. A reader
        that comes later finds other bytes, and is told so by the checksum.
        """
        blocks = [block_id(space_of(namespace), key) for key in keys]
        pieces: list[Piece | None] = []
        held: list[BlockId] = []
        with self._changed:
            self._end_leases(now_s)
        try:
            for block in blocks:
                piece = self._find(block)
                pieces.append(piece)
                if piece is not None:
                    held.append(block)
        except BaseException:
            with self._changed:
                self._unpin(held)
            raise
        if held:
            with self._changed:
                lease = self._leases.grant(holder, namespace, now_s, self._config.lease_s)
                self._leased[lease.id] = held
        return pieces

    def release(self, holder: str, now_s: float) -> None:
        """The pieces that a holder was given were read. Nothing happens when it has none."""
        with self._changed:
            for lease in self._leases.revoke(holder):
                self._unpin(self._leased.pop(lease.id))
            self._end_leases(now_s)

    def expire(self, now_s: float) -> None:
        """End the leases that ran out. Other calls do it too; this is for when there are none."""
        with self._changed:
            self._end_leases(now_s)

    def put(
        self, key: bytes, namespace: str, source: Piece, reader: Transfer, now_s: float
    ) -> Kept:
        """Pull one block from a peer; see `put_many`."""
        return self.put_many([key], namespace, [source], reader, now_s)[0]

    def put_many(
        self,
        keys: Sequence[bytes],
        namespace: str,
        sources: Sequence[Piece],
        reader: Transfer,
        now_s: float,
    ) -> list[Kept]:
        """Pull blocks from a peer, and say what became of each. What is here is not pulled again.

        Each counts as used, in this order. When it returns the sources are no longer needed. A block
        in RAM whose bytes have changed since is found out here, by its checksum, and replaced.
        ValueError when there are not as many sources as keys.
        """
        if len(keys) != len(sources):
            raise ValueError(f"{len(sources)} sources for {len(keys)} keys")
        blocks = [block_id(space_of(namespace), key) for key in keys]
        results: list[Kept] = []
        for start in range(0, len(blocks), PULL_AT_ONCE):
            stop = start + PULL_AT_ONCE
            results += self._pull(blocks[start:stop], sources[start:stop], reader, now_s)
        return results

    def see_siblings(self, folders: Iterable[Path]) -> None:
        """Disk folders of the other cache peers, whose blocks are found too: keys move between
        peers when one comes or goes, and the files stay.
        """
        if self._disk is not None:
            self._disk.see_siblings(folders)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is on disk; False when that took too long or the disk refuses."""
        return self._writer.flush(timeout_s)

    def count(self) -> int:
        """Blocks of both tiers, each counted once; about, while they change. Looks at all in RAM."""
        with self._changed:
            in_ram = self._ram.held()
        if self._disk is None:
            return len(in_ram)
        return len(in_ram) + len(self._disk) - self._disk.count_held(in_ram)

    def stats(self) -> StoreStats:
        """Counts and contents at this moment; O(1)."""
        with self._changed:
            stats = StoreStats(
                **vars(self._counts),
                ram_bytes=self._ram.used_bytes,
                ram_blocks=len(self._ram),
                ram_evictions=self._ram.evictions,
                unwritten=self._writer.waiting,
                lost_unwritten=self._writer.lost,
                leases=len(self._leases),
            )
        disk = self._disk
        if disk is None:
            return stats
        return replace(
            stats,
            disk_bytes=disk.used_bytes,
            disk_blocks=len(disk),
            disk_evictions=disk.counts.evictions,
            corrupt=disk.counts.corrupt,
            write_errors=disk.counts.write_errors,
            disk_healthy=disk.healthy,
        )

    def close(self, flush_s: float = 10.0) -> None:
        """Write what waits, for so long at most, and let go of memory and folder."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self._exposed.close()
        self._writer.flush(flush_s)
        self._writer.close()
        if self._disk is not None:
            self._disk.close()

    def _holds(self, block: BlockId) -> bool:
        slot = self._ram.get(block)
        if slot is not None and slot.ready:
            return True
        return self._disk is not None and block in self._disk

    def _find(self, block: BlockId) -> Piece | None:
        """A pinned piece, from RAM or from the disk."""
        with self._changed:
            piece = self._find_in_ram(block)
        if piece is None and self._disk is not None:
            piece = self._promote(block, self._disk)
        if piece is None:
            with self._changed:
                self._counts.misses += 1
        return piece

    def _find_in_ram(self, block: BlockId) -> Piece | None:
        """A pinned piece, if it is in RAM or just being read from the disk. The lock is held."""
        slot = self._ram.get(block)
        while slot is not None and not slot.ready and slot.from_disk:
            self._changed.wait()
            slot = self._ram.get(block)
        if slot is None or not slot.ready:
            return None
        self._ram.pin(block)
        self._counts.ram_hits += 1
        return self._ram.piece(slot)

    def _promote(self, block: BlockId, disk: DiskTier) -> Piece | None:
        """Read a block from the disk into RAM; a pinned piece."""
        opened = disk.open(block)
        if opened is None:
            return None
        with self._changed:
            # Another thread may have been faster.
            piece = self._find_in_ram(block)
            slot = self._take(block, opened.length) if piece is None else None
            if slot is None:
                opened.close()
                return piece
            slot.from_disk = True
        good = False
        try:
            good = disk.load(opened, self._ram.view(slot))
        finally:
            with self._changed:
                if good:
                    self._ram.finish(block, opened.checksum)
                    self._counts.disk_hits += 1
                    piece = self._ram.piece(slot)
                else:
                    self._ram.abandon(block)
                self._changed.notify_all()
        return piece

    def _take(self, block: BlockId, length: int) -> Slot | None:
        """A pinned place in RAM for a block; None when there is none. The lock is held."""
        if self._closed or self._ram.get(block) is not None:
            return None
        slot, evicted = self._ram.take(block, length)
        self._writer.evicted(evicted)
        return slot

    def _pull(
        self, blocks: Sequence[BlockId], sources: Sequence[Piece], reader: Transfer, now_s: float
    ) -> list[Kept]:
        results: list[Kept] = ["known"] * len(blocks)
        slots: dict[int, Slot] = {}
        with self._changed:
            self._end_leases(now_s)
            for index, (block, source) in enumerate(zip(blocks, sources, strict=True)):
                if self._is_known(block):
                    continue
                slot = self._take(block, source.length) if source.length >= 0 else None
                if slot is None:
                    results[index] = "refused"
                else:
                    slots[index] = slot
        arrived: set[int] = set()
        try:
            pieces = [sources[index] for index in slots]
            errors = reader.read_many(pieces, [self._ram.view(slot) for slot in slots.values()])
            arrived = {index for index, error in zip(slots, errors, strict=True) if error is None}
        finally:
            with self._changed:
                for index, block in enumerate(blocks):
                    if index in slots:
                        results[index] = self._settle(block, sources[index], index in arrived)
                    elif results[index] == "known":
                        self._touch(block)
                for result in results:
                    setattr(self._counts, result, getattr(self._counts, result) + 1)
                self._changed.notify_all()
        return results

    def _is_known(self, block: BlockId) -> bool:
        """Whether it is here, or on its way. The lock is held."""
        if self._ram.get(block) is None:
            return self._disk is not None and block in self._disk
        if self._ram.heal(block):
            self._writer.evicted([block])
            self._counts.healed += 1
            return False
        return True

    def _touch(self, block: BlockId) -> None:
        self._ram.touch(block)
        if self._disk is not None:
            self._disk.touch(block)

    def _settle(self, block: BlockId, source: Piece, arrived: bool) -> Kept:
        if not arrived:
            self._ram.abandon(block)
            return "failed"
        self._ram.finish(block, source.checksum)
        self._ram.unpin(block)
        self._writer.add(block)
        return "stored"

    def _end_leases(self, now_s: float) -> None:
        for lease in self._leases.expire(now_s):
            self._unpin(self._leased.pop(lease.id))

    def _unpin(self, blocks: Sequence[BlockId]) -> None:
        """The first is used last, in both tiers: without the beginning of a prefix the rest of it is of
        no use.
        """
        for block in reversed(blocks):
            self._ram.unpin(block)
            if self._disk is not None:
                self._disk.touch(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
