"""Writing through: what is new in RAM goes to the disk in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from silva.serving.cache.disk import DiskTier
from silva.serving.cache.names import BlockId
from silva.serving.cache.ram import RamTier

LOOK_AGAIN_S = 0.5
"""How often a writer whose disk refuses looks whether it is time to try again."""

log = logging.getLogger(__name__)


class Writer:
    """A thread that writes blocks to the disk tier, oldest first.

    Blocks wait in their places in RAM, where each may be evicted, and only the one that is being
    written is pinned. `changed` is the store's lock; `add`, `evicted` and `waiting` are called
    with it held.
    """

    def __init__(self, ram: RamTier, disk: DiskTier | None, changed: threading.Condition) -> None:
        self.lost = 0
        self._ram, self._disk, self._changed = ram, disk, changed
        # A dict for its order: the first is written next.
        self._waiting: dict[BlockId, None] = {}
        self._closing = False
        self._thread: threading.Thread | None = None
        if disk is not None:
            self._thread = threading.Thread(
                target=self._run, args=(disk,), name="silva-cache-writer", daemon=True
            )
            self._thread.start()

    @property
    def waiting(self) -> int:
        """Blocks that are not on disk yet."""
        return len(self._waiting)

    def add(self, block: BlockId) -> None:
        """A block in RAM is new."""
        if self._disk is not None:
            self._waiting[block] = None
            self._changed.notify_all()

    def evicted(self, blocks: Iterable[BlockId]) -> None:
        """These are no longer in RAM; those that waited are lost."""
        for block in blocks:
            if block in self._waiting:
                del self._waiting[block]
                self.lost += 1

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing waits; False after `timeout_s`, or when the disk refuses."""
        disk = self._disk
        if disk is None:
            return True
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while self._waiting and disk.healthy and time.monotonic() < deadline_s:
                self._changed.wait(max(deadline_s - time.monotonic(), 0.0))
            return not self._waiting

    def close(self) -> None:
        """End the thread; what waits is not written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self, disk: DiskTier) -> None:
        while True:
            with self._changed:
                while not self._closing and not (self._waiting and disk.may_write):
                    # A disk that refuses tells nobody when it works again.
                    self._changed.wait(LOOK_AGAIN_S if self._waiting else None)
                if self._closing:
                    return
                block = next(iter(self._waiting))
                slot = self._ram.get(block)
                assert slot is not None
                self._ram.pin(block)
            outcome = "failed"
            try:
                outcome = disk.write(block, self._ram.view(slot), slot.checksum)
            except Exception:
                log.exception("a block could not be written to the disk tier")
                outcome = "refused"
            finally:
                with self._changed:
                    self._ram.unpin(block)
                    del self._waiting[block]
                    if outcome == "failed":
                        # To the end: the next try is another block's, lest one blocks them all.
                        self._waiting[block] = None
                    self._changed.notify_all()
