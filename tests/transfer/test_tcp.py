"""The TCP transfer: hostile and silent owners, strangers, old connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from silva.errors import ConfigError
from silva.transfer import (
    GoneError,
    Piece,
    RefusedError,
    Region,
    TimedOutError,
    checksum,
    tcp,
    tcp_owner,
)
from silva.transfer.tcp import TcpTransfer
from silva.transfer.wire import (
    MAGIC,
    MAX_FRAME_BYTES,
    MAX_SPANS,
    Answer,
    Ask,
    pack,
    proof,
    unpack_ask,
)

SECRET = b"the secret of one run"
CONTENT = bytes(range(256)) * 40
NONCE = b"n" * 32


@pytest.fixture
def owner() -> Iterator[TcpTransfer]:
    with TcpTransfer(SECRET) as owner:
        yield owner


@pytest.fixture
def reader() -> Iterator[TcpTransfer]:
    with TcpTransfer(SECRET, timeout_s=5.0) as reader:
        yield reader


def exposed_piece(owner: TcpTransfer) -> Piece:
    exposed = owner.allocate(len(CONTENT))
    exposed.buffer[:] = CONTENT
    return exposed.piece(0, len(CONTENT))


def read(reader: TcpTransfer, piece: Piece, timeout_s: float | None = None) -> bytes:
    target = bytearray(piece.length)
    reader.read(piece, target, timeout_s)
    return bytes(target)


def port_of(piece: Piece) -> int:
    return int(piece.region.address.rpartition(":")[2])


def test_it_listens_on_the_machine_itself_and_only_when_something_is_exposed() -> None:
    with TcpTransfer(SECRET) as owner:
        assert owner._server is None
        assert owner.allocate(1).region.address.startswith("127.0.0.1:")


def test_who_does_not_know_the_secret_reads_nothing(
    owner: TcpTransfer, reader: TcpTransfer
) -> None:
    piece = exposed_piece(owner)
    with (
        TcpTransfer(b"the secret of another run") as stranger,
        pytest.raises(RefusedError, match="another run"),
    ):
        read(stranger, piece)
    assert read(reader, piece) == CONTENT


def test_an_owner_that_does_not_know_the_secret_is_not_read(reader: TcpTransfer) -> None:
    def impostor(link: socket.socket) -> None:
        link.sendall(MAGIC + NONCE)
        said = link.recv(64, socket.MSG_WAITALL)
        # It can only send back what it was told.
        link.sendall(said[32:])
        link.recv(1)

    with false_owner(impostor) as region, pytest.raises(RefusedError, match="another run"):
        read(reader, Piece(region, 0, 1, 0))


def test_a_short_secret_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        TcpTransfer(b"short")


def test_a_host_that_is_not_this_machine_is_a_mistake_of_the_user() -> None:
    with TcpTransfer(SECRET, host="203.0.113.1") as owner, pytest.raises(ConfigError):
        owner.allocate(1)


def test_memory_that_cannot_be_had(owner: TcpTransfer) -> None:
    for size in (2**62, 2**70):
        with pytest.raises(ConfigError, match="less"):
            owner.allocate(size)


class false_owner:  # noqa: N801  # used as a function
    """A listener that does to each connection what a test says; gives a region at its address."""

    def __init__(self, *acts: Callable[[socket.socket], None]) -> None:
        self._acts, self._listener = acts, socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Region:
        self._thread.start()
        return Region("tcp", f"127.0.0.1:{self._listener.getsockname()[1]}", 1 << 20, NONCE[:16])

    def _run(self) -> None:
        for act in self._acts:
            with self._listener.accept()[0] as link:
                act(link)

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join()


def handshake(link: socket.socket) -> None:
    link.sendall(MAGIC + NONCE)
    link.sendall(proof(SECRET, b"owner", link.recv(64, socket.MSG_WAITALL)[:32]))


def take_ask(link: socket.socket) -> Ask:
    size = int.from_bytes(link.recv(4, socket.MSG_WAITALL), "little")
    return unpack_ask(link.recv(size, socket.MSG_WAITALL))


def answering(*said: bytes) -> Callable[[socket.socket], None]:
    """An owner that says this to the first question, and goes away."""

    def act(link: socket.socket) -> None:
        handshake(link)
        take_ask(link)
        for data in said:
            link.sendall(data)

    return act


OK = pack(Answer("ok"))


@pytest.mark.parametrize(
    "act",
    [
        lambda link: None,
        lambda link: link.sendall(MAGIC),
        handshake,
        answering(OK[:3]),
        answering(OK[:-1]),
        answering(OK),
        answering(OK, b"x" * 99),
    ],
)
def test_an_owner_that_dies_at_any_moment_is_gone(
    reader: TcpTransfer, act: Callable[[socket.socket], None]
) -> None:
    with false_owner(act) as region, pytest.raises(GoneError):
        read(reader, Piece(region, 0, 100, 0))


@pytest.mark.parametrize(
    "act",
    [
        lambda link: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(99)),
        answering((MAX_FRAME_BYTES + 1).to_bytes(4, "little"), b"x" * 100),
        answering(b"\xff\xff\xff\xff"),
        answering(b"\x03\0\0\0abc"),
        answering(b"\0\0\0\0"),
        answering(pack(Answer("refused", "because"))),
    ],
)
def test_an_owner_that_talks_nonsense_is_refused(
    reader: TcpTransfer, act: Callable[[socket.socket], None]
) -> None:
    with false_owner(act) as region, pytest.raises(RefusedError):
        read(reader, Piece(region, 0, 100, 0))


def silent_after(*said: bytes) -> Callable[[socket.socket], None]:
    """An owner that stops after it has said this; the connection ends when the reader gives up."""

    def act(link: socket.socket) -> None:
        if said:
            answering(*said)(link)
        link.settimeout(10)
        while link.recv(4096):
            pass

    return act


@pytest.mark.parametrize("said", [(), (b"",), (OK[:2],), (OK,), (OK, b"x" * 99)])
def test_an_owner_that_stops_at_any_moment_is_a_timeout(
    reader: TcpTransfer, said: tuple[bytes, ...]
) -> None:
    with false_owner(silent_after(*said)) as region, pytest.raises(TimedOutError):
        read(reader, Piece(region, 0, 100, 0), 0.1)


def test_a_silent_owner_is_asked_once_not_by_every_read(reader: TcpTransfer) -> None:
    asked = []

    def silent(link: socket.socket) -> None:
        asked.append(1)
        silent_after()(link)

    with false_owner(silent) as region:
        for _ in range(50):
            with pytest.raises(TimedOutError):
                read(reader, Piece(region, 0, 100, 0), 0.1)
        assert len(asked) == 1


def test_a_silent_owner_is_probed_and_admitted_again(
    reader: TcpTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "BACKOFF_S", (1e-9, 1e-9))
    well = answering(OK, b"abc", pack(Answer("gone")))
    piece = Piece(Region("tcp", "", 10, NONCE[:16]), 0, 3, checksum(b"abc"))
    with false_owner(silent_after(), silent_after(OK), well) as region:
        piece = replace(piece, region=replace(region, size=10))
        for _ in range(2):
            with pytest.raises(TimedOutError):
                read(reader, piece, 0.1)
        assert read(reader, piece) == b"abc"
        with pytest.raises(GoneError):
            read(reader, piece)


def test_an_old_connection_that_was_closed_is_replaced(reader: TcpTransfer) -> None:
    """A clean end between two questions says nothing of the owner, so it is asked again."""
    once = answering(OK, b"abc")
    with false_owner(once, once) as region:
        piece = Piece(region, 0, 3, checksum(b"abc"))
        assert read(reader, piece) == b"abc"
        assert read(reader, piece) == b"abc"


def test_connections_are_kept_and_not_more_than_needed(
    owner: TcpTransfer, reader: TcpTransfer
) -> None:
    piece = exposed_piece(owner)
    for _ in range(20):
        assert read(reader, piece) == CONTENT
    assert owner._server and len(owner._server._readers) == 1


def test_owners_that_are_gone_are_forgotten_with_their_connections(reader: TcpTransfer) -> None:
    with TcpTransfer(SECRET) as lasting:
        piece = exposed_piece(lasting)
        assert read(reader, piece) == CONTENT
        for _ in range(5):
            with TcpTransfer(SECRET) as passing:
                assert read(reader, exposed_piece(passing)) == CONTENT
        assert len(reader._owners) == 2
        assert read(reader, piece) == CONTENT


def test_a_batch_beyond_the_limit_of_one_question(owner: TcpTransfer, reader: TcpTransfer) -> None:
    exposed = owner.allocate(MAX_SPANS + 10)
    pieces = [exposed.piece(k, 1) for k in range(MAX_SPANS + 10)]
    assert not any(reader.read_many(pieces, [bytearray(1) for _ in pieces]))


def test_more_readers_than_allowed_are_turned_away_and_come_in_later(
    owner: TcpTransfer, reader: TcpTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = exposed_piece(owner)
    monkeypatch.setattr(tcp_owner, "MAX_READERS", 1)
    with TcpTransfer(SECRET) as first:
        assert read(first, piece) == CONTENT
        with pytest.raises(GoneError):
            read(reader, piece)
    wait_until(lambda: owner._server is not None and not owner._server._readers)
    assert read(reader, piece) == CONTENT


def wait_until(reached: Callable[[], bool]) -> None:
    moment = threading.Event()
    for _ in range(1000):
        if reached():
            return
        moment.wait(0.01)
    raise AssertionError("it never came about")


def test_closing_an_owner_ends_its_threads_and_connections(reader: TcpTransfer) -> None:
    owner = TcpTransfer(SECRET)
    piece = exposed_piece(owner)
    assert read(reader, piece) == CONTENT
    owner.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("silva-tcp") for name in names)
    with pytest.raises(GoneError):
        read(reader, piece)


@pytest.mark.parametrize(
    "address",
    ["", ":", "host", "host:", ":80", "h:0", "h:65536", "h:-1", "h:a", "h:²", "x" * 300 + ":1"],
)
def test_an_address_from_outside_is_checked(reader: TcpTransfer, address: str) -> None:
    with pytest.raises(RefusedError):
        read(reader, Piece(Region("tcp", address, 10, NONCE[:16]), 0, 1, 0))


def test_a_port_that_nobody_listens_on_is_gone(reader: TcpTransfer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(GoneError):
        read(reader, Piece(Region("tcp", address, 10, NONCE[:16]), 0, 1, 0))
