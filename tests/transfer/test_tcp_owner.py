"""The owner's side of the TCP transfer and its parsers: whatever a hostile reader sends."""

from __future__ import annotations

import contextlib
import socket
import threading

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from silva.transfer import RefusedError
from silva.transfer.tcp_owner import Shelf, serve
from silva.transfer.wire import (
    MAGIC,
    MAX_SPANS,
    Answer,
    Ask,
    pack,
    proof,
    unpack_answer,
    unpack_ask,
)

SECRET = b"the secret of one run"
CONTENT = bytes(range(256)) * 40
NONCE = b"n" * 32
OK = pack(Answer("ok"))


def serve_all(said: bytes, shelf: Shelf) -> bytes:
    """What the owner's side answers to bytes after a handshake; it must end by itself."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        thread = threading.Thread(target=lambda: (serve(theirs, shelf, SECRET), theirs.close()))
        thread.start()
        nonce = mine.recv(len(MAGIC) + 32, socket.MSG_WAITALL)[len(MAGIC) :]
        mine.sendall(NONCE + proof(SECRET, b"reader", nonce))
        assert mine.recv(32, socket.MSG_WAITALL) == proof(SECRET, b"owner", NONCE)
        heard = b""
        try:
            mine.sendall(said)
            mine.shutdown(socket.SHUT_WR)
            while data := mine.recv(1 << 16):
                heard += data
        except ConnectionError:
            pass
        thread.join(10)
        assert not thread.is_alive()
    return heard


SHELF = Shelf()
SHELF.add(b"t" * 16, memoryview(bytearray(CONTENT)))
SPANS = st.lists(st.tuples(st.integers(-(2**63), 2**64 - 1), st.integers(-(2**63), 2**64 - 1)))
HONEST = pack(Ask(b"t" * 16, ((0, 5),)))


@given(said=st.binary(max_size=300))
@example(said=b"\xff\xff\xff\xff" + b"x" * 100)
@example(said=(8).to_bytes(4, "little") + b"\x81\xa5spans\xdd")
@example(said=(40_000).to_bytes(4, "little") + b"\x81\xa1x" + b"\x91" * 39_997)
@settings(max_examples=60, deadline=None)
def test_arbitrary_bytes_get_no_content_and_break_nothing(said: bytes) -> None:
    heard = serve_all(said, SHELF)
    assert not heard or unpack_answer(heard[4:]).state in ("refused", "gone")
    assert serve_all(HONEST, SHELF) == OK + CONTENT[:5]


@given(spans=SPANS, cut=st.integers(0, 400), token=st.sampled_from([b"t" * 16, b"u" * 16, b""]))
@settings(max_examples=60, deadline=None)
def test_any_question_gets_only_what_lies_within(
    spans: list[tuple[int, int]], cut: int, token: bytes
) -> None:
    heard = serve_all(pack(Ask(token, tuple(spans)))[: cut + 4], SHELF)
    inside = all(min(o, n) >= 0 and o + n <= len(CONTENT) for o, n in spans)
    if heard.startswith(OK):
        assert inside and token == b"t" * 16
        assert heard == OK + b"".join(CONTENT[o : o + n] for o, n in spans)


@given(said=st.binary(max_size=150))
@settings(max_examples=60, deadline=None)
def test_without_a_proof_nothing_is_heard_but_a_nonce(said: bytes) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.sendall(said)
        mine.shutdown(socket.SHUT_WR)
        serve(theirs, SHELF, SECRET)
        theirs.close()
        heard = b""
        try:
            while data := mine.recv(4096):
                heard += data
        except ConnectionError:
            pass
    assert heard[: len(MAGIC)] == MAGIC
    assert heard[len(MAGIC) + 32 :] in (b"", bytes(32))


@given(body=st.binary(max_size=200))
@settings(max_examples=200)
def test_parsers_refuse_and_raise_nothing_else(body: bytes) -> None:
    for unpack in (unpack_ask, unpack_answer):
        with contextlib.suppress(RefusedError):
            unpack(body)


def test_too_many_spans_are_refused() -> None:
    body = msgspec.msgpack.encode(Ask(b"t" * 16, ((0, 0),) * (MAX_SPANS + 1)))
    with pytest.raises(RefusedError, match="spans"):
        unpack_ask(body)


def test_a_question_at_all_limits_fits_in_a_frame() -> None:
    spans = ((2**63, 2**63),) * MAX_SPANS
    assert unpack_ask(pack(Ask(b"t" * 16, spans))[4:]).spans == spans
