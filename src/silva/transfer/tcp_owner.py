"""The owner's side of the TCP transfer: one thread that accepts, one for each reader."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import threading
import time

from silva.transfer.base import RefusedError, check_bounds
from silva.transfer.wire import (
    MAGIC,
    NONCE_BYTES,
    PROOF_BYTES,
    Answer,
    Ask,
    ClosedError,
    Line,
    pack,
    proof,
    unpack_ask,
)

MAX_READERS = 256
"""Connections at once; further ones are closed at once."""
HANDSHAKE_S = 2.0
ANSWER_S = 30.0
"""A reader that takes longer to say a question, or to take its answer, is dropped."""


class Shelf:
    """The regions that are exposed now, by token."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: dict[bytes, memoryview] = {}

    def add(self, token: bytes, buffer: memoryview) -> None:
        with self._lock:
            self._buffers[token] = buffer

    def remove(self, token: bytes) -> None:
        with self._lock:
            self._buffers.pop(token, None)

    def get(self, token: bytes) -> memoryview | None:
        with self._lock:
            return self._buffers.get(token)

    def clear(self) -> None:
        with self._lock:
            self._buffers.clear()


class Server:
    """Serves a shelf on a port of `host` that the system chooses; OSError when it has none."""

    def __init__(self, shelf: Shelf, secret: bytes, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._shelf, self._secret = shelf, secret
        self._lock, self._closed = threading.Lock(), False
        self._readers: dict[socket.socket, threading.Thread] = {}
        self._thread = threading.Thread(target=self._accept, name="silva-tcp-owner", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting, and cut off all readers."""
        with self._lock:
            self._closed = True
            readers = dict(self._readers)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for link, thread in readers.items():
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _accept(self) -> None:
        while not self._closed:
            try:
                link = self._listener.accept()[0]
            except OSError:
                if not self._closed:
                    # Out of descriptors, most likely: others must close theirs first.
                    time.sleep(0.05)
                continue
            thread = threading.Thread(
                target=self._serve, args=(link,), name="silva-tcp-reader", daemon=True
            )
            with self._lock:
                welcome = not self._closed and len(self._readers) < MAX_READERS
                if welcome:
                    self._readers[link] = thread
                    thread.start()
            if not welcome:
                link.close()

    def _serve(self, link: socket.socket) -> None:
        try:
            serve(link, self._shelf, self._secret)
        finally:
            with self._lock:
                del self._readers[link]
            link.close()


def serve(link: socket.socket, shelf: Shelf, secret: bytes) -> None:
    """Answer one reader until it leaves, breaks the rules or is too slow."""
    with contextlib.suppress(OSError, ClosedError, RefusedError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if link.family in (socket.AF_INET, socket.AF_INET6):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = Line(link)
        line.until(time.monotonic() + HANDSHAKE_S)
        _welcome(line, secret)
        while True:
            line.wait(None)
            line.until(time.monotonic() + ANSWER_S)
            _answer(line, shelf)


def _welcome(line: Line, secret: bytes) -> None:
    nonce = secrets.token_bytes(NONCE_BYTES)
    line.send(MAGIC + nonce)
    theirs = line.receive(NONCE_BYTES)
    if not hmac.compare_digest(line.receive(PROOF_BYTES), proof(secret, b"reader", nonce)):
        line.send(bytes(PROOF_BYTES))
        raise RefusedError("a reader of another run")
    line.send(proof(secret, b"owner", theirs))


def _answer(line: Line, shelf: Shelf) -> None:
    try:
        ask = unpack_ask(line.receive_frame())
        buffer = shelf.get(ask.token)
        if buffer is None:
            line.send(pack(Answer("gone")))
            return
        _check(ask, buffer)
    except RefusedError as error:
        line.send(pack(Answer("refused", str(error)[:200])))
        # What follows a message that was not understood cannot be trusted.
        raise
    line.send(pack(Answer("ok")))
    for offset, length in ask.spans:
        if shelf.get(ask.token) is None:
            raise RefusedError("the region was closed while it was read")
        line.send(buffer[offset : offset + length])


def _check(ask: Ask, buffer: memoryview) -> None:
    for offset, length in ask.spans:
        check_bounds(offset, length, len(buffer))
