"""Transfer over TCP: between machines, or where shared memory is not to be had.

An owner is asked by one exchange for all pieces of a batch; connections are kept. An owner that did
not answer in time is left alone for a moment, so that it costs its readers one timeout and not one
for each read; then one reader probes it, and all read again when it answers.
"""

from __future__ import annotations

import hmac
import mmap
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

from silva.errors import ConfigError
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
    check_size,
)
from silva.transfer.tcp_owner import Server, Shelf
from silva.transfer.wire import (
    MAGIC,
    MAX_SPANS,
    MIN_SECRET_BYTES,
    NONCE_BYTES,
    PROOF_BYTES,
    Ask,
    ClosedError,
    Line,
    pack,
    proof,
    unpack_answer,
)

MAX_IDLE = 8
"""Connections to one owner that are kept while nobody uses them."""
PROBE_S = 0.5
"""Patience with an owner that failed to answer lately."""
BACKOFF_S = (0.25, 4.0)
"""How long such an owner is left alone: at first, doubling, at most."""


class TcpExposed(Exposed):
    """A region of plain memory on this process's shelf."""

    def __init__(self, size_bytes: int, address: str, shelf: Shelf) -> None:
        token = secrets.token_bytes(TOKEN_BYTES)
        # Anonymous memory: zero, aligned to a page, and taken only as it is written.
        memory = mmap.mmap(-1, max(size_bytes, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.region = Region("tcp", address, size_bytes, token)
        self._shelf = shelf
        shelf.add(token, memoryview(memory)[:size_bytes])

    @property
    def buffer(self) -> memoryview:
        buffer = self._shelf.get(self.region.token)
        if buffer is None:
            raise ValueError("the region is closed")
        return buffer

    def close(self) -> None:
        self._shelf.remove(self.region.token)


class TcpTransfer(Transfer):
    """Peers that know one secret. `host` is the address on which this process's regions are read."""

    kind: ClassVar[str] = "tcp"

    def __init__(
        self, secret: bytes, *, host: str = "127.0.0.1", timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret needs at least {MIN_SECRET_BYTES} bytes")
        self.timeout_s = timeout_s
        self._secret, self._host = secret, host
        self._lock, self._closed = threading.Lock(), False
        self._shelf = Shelf()
        self._server: Server | None = None
        self._owners: dict[str, _Owner] = {}

    def allocate(self, size_bytes: int) -> TcpExposed:
        check_size(size_bytes)
        with self._lock:
            try:
                self._server = self._server or Server(self._shelf, self._secret, self._host)
            except OSError as error:
                what = f"cannot listen ({error.strerror or error})"
                raise ConfigError(what, where=self._host, remedy="bind another address") from error
            try:
                address = f"{self._host}:{self._server.port}"
                return TcpExposed(size_bytes, address, self._shelf)
            except (OSError, OverflowError, ValueError) as error:
                what = f"{size_bytes} bytes of memory cannot be had ({error})"
                raise ConfigError(what, remedy="ask for less memory") from error

    def close(self) -> None:
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
            owners = list(self._owners.values())
        self._shelf.clear()
        for owner in owners:
            owner.close()
        if server is not None:
            server.close()

    def _fetch(
        self, region: Region, parts: Sequence[tuple[Piece, memoryview]], deadline_s: float
    ) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise RefusedError("this transfer is closed")
            owner = self._owners.get(region.address)
            if owner is None:
                # Owners come and go, each on its own port: those that are gone must not pile up.
                self._owners = {at: one for at, one in self._owners.items() if one.is_there()}
                owner = self._owners[region.address] = _Owner(region.address, self._secret)
        for start in range(0, len(parts), MAX_SPANS):
            yield from owner.fetch(region.token, parts[start : start + MAX_SPANS], deadline_s)


class _Owner:
    """What a reader has of one owner: idle connections, and whether it answers."""

    def __init__(self, address: str, secret: bytes) -> None:
        self._host, self._port = _parse_address(address)
        self._secret = secret
        self._lock = threading.Lock()
        self._idle: list[Line] = []
        self._pause_s, self._asked_again_s = 0.0, 0.0

    def fetch(
        self, token: bytes, parts: Sequence[tuple[Piece, memoryview]], deadline_s: float
    ) -> Iterator[None]:
        """Fill the targets by one question; a TransferError ends it, and the connection."""
        ask = pack(Ask(token, tuple((piece.offset, piece.length) for piece, _ in parts)))
        patience_s = deadline_s
        if self._is_probe():
            patience_s = min(deadline_s, time.monotonic() + PROBE_S)
        line: Line | None = None
        try:
            line = self._ask(ask, patience_s)
            line.until(deadline_s)
            for _, target in parts:
                line.receive_into(target)
                yield
            self._answered(line)
            line = None
        except TimeoutError as error:
            self._silent()
            raise TimedOutError("the owner did not answer in time") from error
        except (ClosedError, OSError) as error:
            raise GoneError(f"the owner is gone: {error}") from error
        finally:
            # In the middle of an answer it is of no more use.
            if line is not None:
                line.close()

    def is_there(self) -> bool:
        """Whether it is worth remembering; lets go of connections that the owner has ended."""
        with self._lock:
            ended = [line for line in self._idle if line.ended()]
            self._idle = [line for line in self._idle if line not in ended]
            worth = bool(self._idle) or self._asked_again_s > time.monotonic()
        for line in ended:
            line.close()
        return worth

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _is_probe(self) -> bool:
        """Whether this read finds out if a silent owner is back; TimedOutError to leave it alone."""
        with self._lock:
            if not self._pause_s:
                return False
            now_s = time.monotonic()
            if now_s < self._asked_again_s:
                raise TimedOutError("the owner did not answer lately")
            # The others wait for what the probe finds.
            self._asked_again_s = now_s + self._pause_s + PROBE_S
            return True

    def _silent(self) -> None:
        first_s, most_s = BACKOFF_S
        with self._lock:
            self._pause_s = min(max(first_s, 2 * self._pause_s), most_s)
            self._asked_again_s = time.monotonic() + self._pause_s
        self.close()

    def _answered(self, line: Line) -> None:
        with self._lock:
            self._pause_s = 0.0
            if len(self._idle) < MAX_IDLE:
                self._idle.append(line)
                return
        line.close()

    def _ask(self, ask: bytes, deadline_s: float) -> Line:
        """A connection on which the owner said that the bytes follow."""
        with self._lock:
            line = self._idle.pop() if self._idle else None
        if line is not None:
            try:
                return self._asked(line, ask, deadline_s)
            except (ConnectionError, ClosedError) as error:
                # It was closed while it lay idle: an old connection says nothing of the owner.
                if isinstance(error, ClosedError) and not error.clean:
                    raise
        return self._asked(self._connect(deadline_s), ask, deadline_s)

    def _asked(self, line: Line, ask: bytes, deadline_s: float) -> Line:
        try:
            line.until(deadline_s)
            line.send(ask)
            answer = unpack_answer(line.receive_frame())
        except BaseException:
            line.close()
            raise
        if answer.state == "gone":
            self._answered(line)
            raise GoneError("the owner closed the region")
        if answer.state == "refused":
            line.close()
            raise RefusedError(f"the owner refused: {answer.why[:200]}")
        return line

    def _connect(self, deadline_s: float) -> Line:
        left_s = max(deadline_s - time.monotonic(), 1e-3)
        link = socket.create_connection((self._host, self._port), timeout=left_s)
        try:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(link)
            line.until(deadline_s)
            _introduce(line, self._secret)
        except BaseException:
            link.close()
            raise
        return line


def _introduce(line: Line, secret: bytes) -> None:
    """Prove to the owner that this reader belongs to the run, and have it prove the same."""
    if line.receive(len(MAGIC)) != MAGIC:
        raise RefusedError("no owner of silva's listens there")
    nonce = secrets.token_bytes(NONCE_BYTES)
    line.send(nonce + proof(secret, b"reader", line.receive(NONCE_BYTES)))
    if not hmac.compare_digest(line.receive(PROOF_BYTES), proof(secret, b"owner", nonce)):
        raise RefusedError("the owner belongs to another run")


def _parse_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not (host and len(address) <= 260 and port.isascii() and port.isdigit()):
        raise RefusedError(f"{address[:40]!r} is not an address")
    if not 0 < int(port) < 1 << 16:
        raise RefusedError(f"{address[:40]!r} is not an address")
    return host, int(port)
