"""Transfer between processes of one machine: the owner's anonymous memory, mapped by readers.

A region is a memfd (`silva.transfer.memfd`) that nobody but its owner can map writable. Readers keep
it mapped.

A page before the bytes says whether the region is open. Readers look at it and at the owner's pidfd
before each read, and once a second for regions that they no longer read, so that the memory of a
closed region or a dead owner goes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from silva.errors import ConfigError
from silva.transfer import memfd
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

HEADER_BYTES = 4096
"""One page before the region's bytes: their first byte is the state."""
OPEN, CLOSED = 1, 2
PATROL_S = 1.0
REMEDY = "use --transfer tcp"


def check_support() -> None:
    """Raise ConfigError, which names the other transfer, where the kernel lacks what is needed."""
    try:
        with contextlib.ExitStack() as stack:
            descriptor = memfd.create(_name(b""), HEADER_BYTES, shared_writing=False)[0]
            stack.callback(os.close, descriptor)
            os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY))
            memfd.Process(os.getpid())
    except (OSError, AttributeError) as error:
        what = f"shared memory between peers does not work here ({error})"
        raise ConfigError(what, remedy=REMEDY) from error


def _name(token: bytes) -> str:
    return f"silva-{token.hex()}"


class ShmExposed(Exposed):
    """A region in this process's own memfd. `forget` is called once, when it closes."""

    def __init__(self, size_bytes: int, forget: Callable[[ShmExposed], None]) -> None:
        token = secrets.token_bytes(TOKEN_BYTES)
        size = HEADER_BYTES + size_bytes
        descriptor, mapping = memfd.create(_name(token), size, shared_writing=False)
        view = memoryview(mapping)
        view[0] = OPEN
        self.region = Region("shm", f"{os.getpid()}:{descriptor}", size_bytes, token)
        self._buffer: memoryview | None = view[HEADER_BYTES:]
        self._end = weakref.finalize(self, _end_region, view[:1], descriptor)
        self._forget = forget

    @property
    def buffer(self) -> memoryview:
        buffer = self._buffer
        if buffer is None:
            raise ValueError("the region is closed")
        return buffer

    def close(self) -> None:
        # Not released: the owner may still use views of it. The last one unmaps it.
        self._buffer = None
        if self._end.alive:
            self._end()
            self._forget(self)


def _end_region(state: memoryview, descriptor: int) -> None:
    state[0] = CLOSED
    os.close(descriptor)


class _Mapping:
    """A reader's view of another process's region."""

    def __init__(self, region: Region) -> None:
        pid, number = _parse_address(region.address)
        size = HEADER_BYTES + region.size
        try:
            # The process first: whoever owns the memfd that is opened next is this very one.
            self._owner = memfd.Process(pid)
            self.view = memoryview(
                memfd.attach(pid, number, _name(region.token), size, shared_writing=False)
            )
        except (FileNotFoundError, ProcessLookupError) as error:
            raise GoneError("the owner died or closed the region") from error
        except PermissionError as error:
            what = f"the memory of process {pid} may not be opened; {REMEDY}, or run as one user"
            raise RefusedError(what) from error
        except OSError as error:
            raise GoneError(f"the region cannot be mapped: {error}") from error
        except ValueError as error:
            raise RefusedError(str(error)) from error

    def check(self) -> None:
        """Raise GoneError unless the owner lives and the region is open."""
        if self.view[0] != OPEN:
            raise GoneError("the owner closed the region")
        if self._owner.ended():
            raise GoneError("the owner died")


def _parse_address(address: str) -> tuple[int, int]:
    pid, _, number = address.partition(":")
    if not (len(address) <= 24 and address.isascii() and pid.isdigit() and number.isdigit()):
        raise RefusedError(f"{address[:40]!r} is not the address of shared memory")
    if not 0 < int(pid) < 2**31 > int(number):
        raise RefusedError(f"{address[:40]!r} is not the address of shared memory")
    return int(pid), int(number)


class ShmTransfer(Transfer):
    """Shared memory of one machine and one user. ConfigError where the kernel cannot do it."""

    kind: ClassVar[str] = "shm"

    def __init__(self, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        check_support()
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._exposed: set[ShmExposed] = set()
        self._mappings: dict[Region, _Mapping] = {}
        self._patrol: threading.Thread | None = None
        self._closing = threading.Event()

    def allocate(self, size_bytes: int) -> ShmExposed:
        check_size(size_bytes)
        try:
            exposed = ShmExposed(size_bytes, self._withdrawn)
        except (OSError, OverflowError, ValueError) as error:
            what = f"{size_bytes} bytes of shared memory cannot be had ({error})"
            raise ConfigError(what, remedy="ask for less memory") from error
        with self._lock:
            self._exposed.add(exposed)
        return exposed

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            exposed = list(self._exposed)
            self._mappings.clear()
            patrol = self._patrol
        for one in exposed:
            one.close()
        if patrol is not None:
            patrol.join()

    def _withdrawn(self, exposed: ShmExposed) -> None:
        with self._lock:
            self._exposed.discard(exposed)

    @property
    def mapped(self) -> int:
        """Regions of others that are mapped now."""
        with self._lock:
            return len(self._mappings)

    def _fetch(
        self, region: Region, parts: Sequence[tuple[Piece, memoryview]], deadline_s: float
    ) -> Iterator[None]:
        mapping = self._mapping(region)
        for piece, target in parts:
            try:
                mapping.check()
            except GoneError:
                self._forget(region)
                raise
            if time.monotonic() > deadline_s:
                raise TimedOutError("copying took too long")
            check_bounds(piece.offset, piece.length, len(mapping.view) - HEADER_BYTES)
            start = HEADER_BYTES + piece.offset
            copy_bytes(mapping.view[start : start + piece.length], target)
            yield

    def _mapping(self, region: Region) -> _Mapping:
        with self._lock:
            if self._closing.is_set():
                raise RefusedError("this transfer is closed")
            known = self._mappings.get(region)
        if known is not None:
            return known
        fresh = _Mapping(region)
        with self._lock:
            if self._closing.is_set():
                raise RefusedError("this transfer is closed")
            if self._patrol is None:
                self._patrol = threading.Thread(
                    target=self._patrol_until_closed, name="silva-shm-patrol", daemon=True
                )
                self._patrol.start()
            return self._mappings.setdefault(region, fresh)

    def _forget(self, region: Region) -> None:
        with self._lock:
            self._mappings.pop(region, None)

    def _patrol_until_closed(self) -> None:
        while not self._closing.wait(PATROL_S):
            self._drop_dead()

    def _drop_dead(self) -> None:
        """Let go of what nobody can read any more."""
        with self._lock:
            mappings = list(self._mappings.items())
        for region, mapping in mappings:
            try:
                mapping.check()
            except GoneError:
                self._forget(region)
