"""The fake has every fault on demand."""

from __future__ import annotations

import pytest

from silva.transfer import CorruptError, GoneError, Piece, TimedOutError
from silva.transfer.memory import MemoryNetwork, MemoryTransfer

NETWORK = MemoryNetwork()


class Pair:
    def __init__(self) -> None:
        self.slept: list[float] = []
        self.owner = MemoryTransfer(NETWORK)
        self.reader = MemoryTransfer(NETWORK, timeout_s=2.0, sleep=self.slept.append)
        exposed = self.owner.allocate(8)
        exposed.buffer[:] = b"12345678"
        self.pieces = [exposed.piece(k, 2) for k in range(0, 8, 2)]

    def read(self, pieces: list[Piece] | None = None) -> list[str | None]:
        wanted = self.pieces if pieces is None else pieces
        errors = self.reader.read_many(wanted, [bytearray(2) for _ in wanted])
        return [error and error.kind for error in errors]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_one_piece_is_corrupted_and_the_rest_is_whole(pair: Pair) -> None:
    pair.owner.faults.corrupt = 1
    assert pair.read() == ["corrupt", None, None, None]
    assert pair.read() == [None] * 4


def test_a_dropped_piece_takes_the_rest_of_its_batch_along(pair: Pair) -> None:
    assert pair.read(pair.pieces[:1]) == [None]
    pair.owner.faults.drop = 1
    assert pair.read() == ["timeout"] * 4
    assert pair.read() == [None] * 4


def test_a_delay_is_slept_and_too_long_a_one_is_a_timeout(pair: Pair) -> None:
    pair.owner.faults.delay_s = 0.5
    assert pair.read() == [None] * 4
    pair.owner.faults.delay_s = 100.0
    assert pair.read() == ["timeout"] * 4
    assert pair.slept[0] == 0.5 and 1.0 < pair.slept[1] <= 2.0


def test_an_owner_stops_and_goes_on(pair: Pair) -> None:
    pair.owner.faults.stopped = True
    with pytest.raises(TimedOutError):
        pair.reader.read(pair.pieces[0], bytearray(2))
    pair.owner.faults.stopped = False
    assert pair.read() == [None] * 4


def test_an_owner_dies_in_the_middle_of_a_batch(pair: Pair) -> None:
    pair.owner.faults.dies_after = 2
    assert pair.read() == [None, None, "gone", "gone"]
    assert pair.read() == ["gone"] * 4


def test_a_dead_owner_is_gone(pair: Pair) -> None:
    pair.owner.faults.dead = True
    with pytest.raises(GoneError):
        pair.reader.read(pair.pieces[0], bytearray(2))


def test_only_the_owner_at_fault_fails(pair: Pair) -> None:
    other = Pair()
    pair.owner.faults.corrupt = 9
    assert pair.read([*pair.pieces[:1], *other.pieces]) == ["corrupt", None, None, None, None]
    with pytest.raises(CorruptError):
        pair.reader.read(pair.pieces[0], bytearray(2))


def test_networks_do_not_see_each_other(pair: Pair) -> None:
    stranger = MemoryTransfer(MemoryNetwork())
    with pytest.raises(GoneError):
        stranger.read(pair.pieces[0], bytearray(2))
