"""The disk tier: one file a block, in 256 folders, with its own order of use and capacity.

    <folder>/kv1/<first byte of the key>/<key>-<namespace>.kv
    <folder>/kv1/tmp/                                           files that are being written

A block of 0.2 to 1 MB is written and read in one call, and evicting it is one unlink; segment files
would need a collector instead. A block counts with at least `LEAST_CHARGE_BYTES`, so the number of
files is bounded by the capacity over that. Files are immutable and appear by a rename, so other
cache peers may read them at any time: they do for keys that moved when a peer came or went.

A disk that refuses to write is left alone for `RETRY_S` at a time; blocks stay in RAM alone then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from silva.control.eviction import TierPolicy
from silva.errors import ConfigError
from silva.serving.cache.block_file import (
    FORMAT_VERSION,
    HEADER_BYTES,
    DamagedError,
    OpenBlock,
    write,
)
from silva.serving.cache.names import BlockId, parse_file_name

LEAST_CHARGE_BYTES = 1 << 14
PAGE_BYTES = 1 << 12
SLACK_BYTES = 4 * PAGE_BYTES
"""What folders and the file system's own records may take beside a block, at most."""
RETRY_S = 5.0
VERSION_FOLDER = f"kv{FORMAT_VERSION}"
"""Another version's blocks lie elsewhere, and are neither read nor removed."""
TEMPORARY = "tmp"
TEMPORARY_PREFIX = "new-"
PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors that end by themselves or by an operator, while the cache goes on without the disk."""

log = logging.getLogger(__name__)

Written = Literal["written", "refused", "failed"]
"""refused: too large for the tier or the quota. failed: the disk did not take it; try later."""


@dataclass
class DiskCounts:
    """What happened so far."""

    evictions: int = 0
    corrupt: int = 0
    write_errors: int = 0


class DiskTier:
    """Blocks on disk. All methods may be called by several threads, `write` by one at a time."""

    def __init__(
        self,
        folder: Path,
        capacity_bytes: int,
        *,
        quota_bytes: int | None = None,
        quotas: Mapping[str, int] | None = None,
    ) -> None:
        """Take over what the folder holds. `quotas` are by `space_of` a namespace.

        Raises ConfigError when the folder cannot be used, or another process uses it.
        """
        self.counts = DiskCounts()
        self._folder = folder / VERSION_FOLDER
        self._lock = threading.Lock()
        self._policy: TierPolicy[BlockId] = TierPolicy(
            capacity_bytes, quota_bytes=quota_bytes, quotas=quotas
        )
        self._siblings: tuple[Path, ...] = ()
        self._retry_at_s = 0.0
        self._owned = -1
        self.healthy = True
        try:
            self._take_over()
        except OSError as error:
            if error.errno not in PASSING:
                reason = error.strerror or error
                if isinstance(error, BlockingIOError):
                    reason = "another process keeps its cache there"
                raise ConfigError(
                    f"cannot hold the cache's disk tier ({reason})",
                    where=folder,
                    remedy="name another with serve.kv.cache_folder, or none with --cache-disk 0",
                ) from error
            self._failed(error)

    @property
    def used_bytes(self) -> int:
        """Bytes counted for all blocks: whole pages, and at least `LEAST_CHARGE_BYTES` each."""
        return self._policy.used_bytes

    def __len__(self) -> int:
        return len(self._policy)

    def __contains__(self, block: object) -> bool:
        with self._lock:
            return block in self._policy

    def count_held(self, blocks: Iterable[BlockId]) -> int:
        """How many of these are here. Others go on meanwhile: the lock is held for one at a time."""
        return sum(block in self for block in blocks)

    def touch(self, block: BlockId) -> None:
        """The block was used, from whatever tier."""
        with self._lock:
            self._policy.touch(block)

    def see_siblings(self, folders: Iterable[Path]) -> None:
        """Folders of other cache peers, to be looked into for what is not found here."""
        self._siblings = tuple(folder / VERSION_FOLDER for folder in folders)

    @property
    def may_write(self) -> bool:
        """Whether it is time to try: always, unless the last write failed a moment ago."""
        return self.healthy or time.monotonic() >= self._retry_at_s

    def open(self, block: BlockId) -> OpenBlock | None:
        """The block's file, from here or else from a sibling. It is closed by `load`."""
        folders = (self._folder, *self._siblings) if block in self else self._siblings
        for folder in folders:
            path = folder / block.shard / block.file_name
            try:
                return OpenBlock(path, block)
            except FileNotFoundError:
                if folder == self._folder:
                    self._forget(block)
            except (DamagedError, OSError) as error:
                self._unreadable(path, block, error)
        return None

    def load(self, opened: OpenBlock, target: memoryview) -> bool:
        """Fill `target` with a block's verified bytes; False when that is not possible."""
        with opened:
            try:
                opened.read_into(target)
            except (DamagedError, OSError) as error:
                self._unreadable(opened.path, opened.block, error)
                return False
            self.touch(opened.block)
            with contextlib.suppress(OSError):
                opened.used_now()
        return True

    def write(self, block: BlockId, payload: memoryview, payload_checksum: int) -> Written:
        """Add a block, evicting others as needed; a block that is there is touched alone."""
        charge = _charge(HEADER_BYTES + len(payload))
        with self._lock:
            if self._policy.touch(block):
                return "written"
            if not self._policy.fits(charge, block.space):
                return "refused"
        try:
            if self._owned < 0:
                self._take_over()
            try:
                self._write_file(block, payload, payload_checksum)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._shrink(
                    charge + SLACK_BYTES
                ):
                    raise
                # The disk is smaller than the tier was told: the oldest blocks made room.
                self._write_file(block, payload, payload_checksum)
        except OSError as error:
            self._failed(error)
            return "failed"
        with self._lock:
            evicted = self._policy.insert(block, charge, block.space) or ()
        self._erase(evicted)
        self.counts.evictions += len(evicted)
        self._works()
        return "written"

    def close(self) -> None:
        """Let another process use the folder."""
        if self._owned >= 0:
            os.close(self._owned)
            self._owned = -1

    def _unreadable(self, path: Path, block: BlockId, error: DamagedError | OSError) -> None:
        """A block that is missed: computed again, and its file deleted if it is ours and damaged."""
        log.warning("%s: %s; the block is missed", path, error)
        if isinstance(error, OSError) and error.errno != errno.EIO:
            return
        self.counts.corrupt += 1
        if path.parent.parent == self._folder:
            self._forget(block)
            self._erase([block])

    def _forget(self, block: BlockId) -> None:
        with self._lock:
            self._policy.remove(block)

    def _shrink(self, size_bytes: int) -> bool:
        """Delete least recently used blocks until so many bytes are free; whether there were any.

        What the files take counts here, not what the tier counts for them.
        """
        freed, going = 0, 0
        with self._lock:
            oldest = self._policy.oldest_first()
        for block in oldest:
            if freed >= size_bytes:
                break
            with contextlib.suppress(OSError):
                freed += self._path(block).stat().st_blocks * 512
            self._forget(block)
            self._erase([block])
            going += 1
        self.counts.evictions += going
        return going > 0

    def _erase(self, blocks: Iterable[BlockId]) -> None:
        for block in blocks:
            try:
                self._path(block).unlink(missing_ok=True)
            except OSError as error:
                # It stays until the next start, which finds and counts it again.
                self._failed(error)

    def _path(self, block: BlockId) -> Path:
        return self._folder / block.shard / block.file_name

    def _write_file(self, block: BlockId, payload: memoryview, payload_checksum: int) -> None:
        path = self._path(block)
        try:
            write(path, self._temporary(), block, payload, payload_checksum)
        except FileNotFoundError:
            # The first block of its shard; or somebody has cleared the folder.
            (self._folder / TEMPORARY).mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            write(path, self._temporary(), block, payload, payload_checksum)

    def _temporary(self) -> Path:
        return self._folder / TEMPORARY / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"

    def _failed(self, error: OSError) -> None:
        self.counts.write_errors += 1
        self._retry_at_s = time.monotonic() + RETRY_S
        if self.healthy:
            self.healthy = False
            reason = error.strerror or error
            log.warning("%s: %s; blocks stay in RAM alone until it works", self._folder, reason)

    def _works(self) -> None:
        if not self.healthy:
            self.healthy = True
            log.warning("%s: the disk tier works again", self._folder)

    def _take_over(self) -> None:
        """Make the folder this process's own and index what it holds, oldest first."""
        self._folder.mkdir(parents=True, exist_ok=True)
        owned = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = sorted(self._scan(), key=lambda each: each[2])
        except BaseException:
            os.close(owned)
            raise
        self._owned = owned
        for block, size, _ in found:
            evicted = None
            if size >= HEADER_BYTES:
                evicted = self._policy.insert(block, _charge(size), block.space)
            self._erase((block,) if evicted is None else evicted)

    def _scan(self) -> Iterator[tuple[BlockId, int, float]]:
        """Block, bytes and time of every file of ours. What others put there is left alone."""
        for shard in [*(f"{number:02x}" for number in range(256)), TEMPORARY]:
            with contextlib.suppress(FileNotFoundError), os.scandir(self._folder / shard) as files:
                for entry in files:
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    block = parse_file_name(entry.name)
                    if block is not None and block.shard == shard:
                        status = entry.stat(follow_symlinks=False)
                        yield block, status.st_size, status.st_mtime
                    elif shard == TEMPORARY and entry.name.startswith(TEMPORARY_PREFIX):
                        # A write that was never finished; this process writes none yet.
                        with contextlib.suppress(OSError):
                            os.unlink(entry.path)


def _charge(file_bytes: int) -> int:
    return max(-(-file_bytes // PAGE_BYTES) * PAGE_BYTES, LEAST_CHARGE_BYTES)
