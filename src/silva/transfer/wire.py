"""What readers and owners say to each other over TCP: handshake, questions, answers, limits.

    owner   MAGIC, nonce [32]
    reader  nonce [32], proof [32] that it knows the run's secret
    owner   proof [32] that it does, too
    then    reader: frame(Ask)   owner: frame(Answer), and after an "ok" the spans' bytes, in turn

A frame is four bytes of length, little-endian, and so much msgpack. Nothing is allocated by a length
from outside before it was checked. The secret itself is never sent; the bytes are not encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import time
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from silva.transfer.base import TOKEN_BYTES, RefusedError

MAGIC = b"silva-t1"
NONCE_BYTES = 32
PROOF_BYTES = hashlib.sha256().digest_size
MIN_SECRET_BYTES = 16
MAX_SPANS = 4096
"""Pieces asked for at once; a longer batch is asked in several questions."""
MAX_FRAME_BYTES = 1 << 17
"""MAX_SPANS offsets and lengths of 9 bytes each, and room."""

Side = Literal[b"reader", b"owner"]
T = TypeVar("T")


class ClosedError(Exception):
    """The other side closed the connection; `clean` when that was between two messages."""

    def __init__(self, clean: bool) -> None:
        super().__init__("the connection was closed")
        self.clean = clean


@dataclass(frozen=True)
class Ask:
    """Bytes that a reader wants: (offset, length) in the region of a token."""

    token: bytes
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Answer:
    """Whether they follow. "gone": no such region (any more); "refused": `why`."""

    state: Literal["ok", "gone", "refused"]
    why: str = ""


def proof(secret: bytes, side: Side, nonce: bytes) -> bytes:
    """That a side which was given a nonce knows the secret."""
    return hmac.digest(secret, MAGIC + side + nonce, "sha256")


def pack(message: Ask | Answer) -> bytes:
    """A message as one frame."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes")
    return len(body).to_bytes(4, "little") + body


def unpack_ask(body: bytes) -> Ask:
    """RefusedError for anything that is not a question within the limits."""
    ask = _decode(body, Ask)
    if len(ask.token) != TOKEN_BYTES:
        raise RefusedError(f"a token of {len(ask.token)} bytes")
    if len(ask.spans) > MAX_SPANS:
        raise RefusedError(f"{len(ask.spans)} spans, more than {MAX_SPANS}")
    return ask


def unpack_answer(body: bytes) -> Answer:
    """RefusedError for anything that is not an answer."""
    return _decode(body, Answer)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    # RecursionError: deeply nested lists under a key that nobody knows.
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedError(f"not a message: {str(error)[:80]}") from error


class Line:
    """A connection and the moment by which the present exchange must be over.

    Every method raises TimeoutError at the deadline, OSError, or ClosedError.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._deadline_s = 0.0

    def until(self, deadline_s: float) -> None:
        """Set the deadline, on time.monotonic()."""
        self._deadline_s = deadline_s

    def send(self, data: bytes | memoryview) -> None:
        self._link.settimeout(self._left_s())
        self._link.sendall(data)

    def receive_into(self, target: memoryview, *, first: bool = False) -> None:
        """Fill `target`; `first` when a message starts here, so that an end may be a clean one."""
        done = 0
        while done < len(target):
            self._link.settimeout(self._left_s())
            count = self._link.recv_into(target[done:])
            if not count:
                raise ClosedError(clean=first and not done)
            done += count

    def receive(self, size: int, *, first: bool = False) -> bytes:
        """Exactly `size` bytes; the caller answers for the size."""
        data = bytearray(size)
        self.receive_into(memoryview(data), first=first)
        return bytes(data)

    def receive_frame(self) -> bytes:
        """The body of the next frame; RefusedError when it claims to be too long."""
        size = int.from_bytes(self.receive(4, first=True), "little")
        if size > MAX_FRAME_BYTES:
            raise RefusedError(f"a message of {size} bytes, more than {MAX_FRAME_BYTES}")
        return self.receive(size)

    def wait(self, patience_s: float | None) -> None:
        """Sleep until something arrives, or the other side closes."""
        self._link.settimeout(patience_s)
        self._link.recv(1, socket.MSG_PEEK)

    def ended(self) -> bool:
        """Whether the other side has closed it, or said something unasked."""
        try:
            self._link.settimeout(0.0)
            self._link.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        self._link.close()

    def _left_s(self) -> float:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s
