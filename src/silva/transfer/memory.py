"""The fake: peers of one process, and every fault that a real transfer can have, on demand.

network = MemoryNetwork()
owner, reader = MemoryTransfer(network), MemoryTransfer(network)
owner.faults.corrupt = 1          # the next piece read from this owner has a flipped bit
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from silva.transfer.base import (
    READ_TIMEOUT_S,
    TOKEN_BYTES,
    Exposed,
    GoneError,
    Piece,
    RefusedError,
    Region,
    TimedOutError,
    Transfer,
    check_bounds,
    check_size,
    copy_bytes,
)


@dataclass
class Faults:
    """What is wrong with one owner. Counts go down by one with each piece that they spoil."""

    delay_s: float = 0.0
    """Each batch takes so long; a reader with less patience sees a timeout."""
    corrupt: int = 0
    """Pieces that arrive with a flipped bit."""
    drop: int = 0
    """Pieces that never arrive."""
    stopped: bool = False
    """As after SIGSTOP: the owner answers nothing until this is False again."""
    dead: bool = False
    """As after SIGKILL."""
    dies_after: int | None = None
    """The owner dies when so many more pieces were read."""


class MemoryNetwork:
    """The peers that see each other, and the regions that they expose."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.regions: dict[bytes, tuple[MemoryTransfer, MemoryExposed]] = {}


class MemoryExposed(Exposed):
    """A region of a fake owner."""

    def __init__(self, network: MemoryNetwork, region: Region) -> None:
        self.region, self._network = region, network
        self._buffer: memoryview | None = memoryview(bytearray(region.size))

    @property
    def buffer(self) -> memoryview:
        if self._buffer is None:
            raise ValueError("the region is closed")
        return self._buffer

    def close(self) -> None:
        with self._network.lock:
            self._network.regions.pop(self.region.token, None)
            self._buffer = None


class MemoryTransfer(Transfer):
    """A fake peer. `faults` are those of reads from it; `sleep` is how delays pass."""

    kind: ClassVar[str] = "memory"

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        timeout_s: float = READ_TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.timeout_s, self.faults = timeout_s, Faults()
        self._network, self._sleep = network, sleep
        self._closed = False

    def allocate(self, size_bytes: int) -> MemoryExposed:
        check_size(size_bytes)
        region = Region(self.kind, f"{id(self):x}", size_bytes, secrets.token_bytes(TOKEN_BYTES))
        exposed = MemoryExposed(self._network, region)
        with self._network.lock:
            self._network.regions[region.token] = self, exposed
        return exposed

    def close(self) -> None:
        self._closed = True
        with self._network.lock:
            mine = [exposed for owner, exposed in self._network.regions.values() if owner is self]
        for exposed in mine:
            exposed.close()

    def _fetch(
        self, region: Region, parts: Sequence[tuple[Piece, memoryview]], deadline_s: float
    ) -> Iterator[None]:
        if self._closed:
            raise RefusedError("this transfer is closed")
        patience_s = max(deadline_s - time.monotonic(), 0.0)
        owner = self._find(region)[0]
        if owner.faults.delay_s:
            self._sleep(min(owner.faults.delay_s, patience_s))
        if owner.faults.delay_s >= patience_s:
            raise TimedOutError(f"the owner takes {owner.faults.delay_s} s")
        for piece, target in parts:
            # Looked up again: regions close and owners die between two pieces.
            owner, source = self._find(region)
            check_bounds(piece.offset, piece.length, len(source))
            copy_bytes(source[piece.offset : piece.offset + piece.length], target)
            with self._network.lock:
                _spoil(owner.faults, target)
            yield

    def _find(self, region: Region) -> tuple[MemoryTransfer, memoryview]:
        with self._network.lock:
            found = self._network.regions.get(region.token)
            if found is None or found[0].faults.dead:
                raise GoneError("no such region any more")
            owner, exposed = found
            if owner.faults.stopped:
                raise TimedOutError("the owner does not answer")
            if exposed.region != region:
                raise RefusedError("the region is another one")
            return owner, exposed.buffer


def _spoil(faults: Faults, target: memoryview) -> None:
    """Apply what may happen to one piece after it was copied; the network is locked."""
    if faults.dies_after is not None:
        faults.dies_after -= 1
        faults.dead = faults.dies_after < 0
        if faults.dead:
            raise GoneError("the owner died")
    if faults.drop:
        faults.drop -= 1
        raise TimedOutError("the piece was lost on the way")
    if faults.corrupt and target:
        faults.corrupt -= 1
        target[0] ^= 1
