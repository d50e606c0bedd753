"""What every transfer must do, the fake and the real ones alike; shm and tcp with real processes."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_parties import Owner, Parties

from silva.transfer import (
    CorruptError,
    GoneError,
    Piece,
    RefusedError,
    TimedOutError,
    Transfer,
    TransferError,
    checksum,
)

SIZE = 100_000


def content(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize(("offset", "length"), [(0, SIZE), (0, 1), (SIZE - 1, 1), (777, 4099)])
def test_a_piece_arrives(owner: Owner, reader: Transfer, offset: int, length: int) -> None:
    data = content(1)
    piece = owner.piece(owner.expose(data), offset, length)
    target = bytearray(length)
    reader.read(piece, target)
    assert target == data[offset : offset + length]


@pytest.mark.parametrize("offset", [0, 5, SIZE])
def test_nothing_can_be_read_anywhere(owner: Owner, reader: Transfer, offset: int) -> None:
    reader.read(owner.piece(owner.expose(content(1)), offset, 0), bytearray())


def test_an_empty_region_can_be_read(owner: Owner, reader: Transfer) -> None:
    reader.read(owner.piece(owner.expose(b""), 0, 0), bytearray())


def test_a_piece_is_sent_as_a_message(owner: Owner, reader: Transfer) -> None:
    piece = owner.piece(owner.expose(content(1)), 0, 10)
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=Piece)
    assert sent == piece
    reader.read(sent, bytearray(10))


def test_a_batch_of_several_regions_arrives_each_in_its_place(
    owner: Owner, reader: Transfer
) -> None:
    data = [content(seed) for seed in range(3)]
    regions = [owner.expose(one) for one in data]
    wanted = [(k % 3, k * 97, 1 + k % 13) for k in range(600)]
    pieces = [owner.piece(regions[0], 0, 0)]
    pieces += [
        Piece(regions[r], start, size, checksum(data[r][start : start + size]))
        for r, start, size in wanted
    ]
    targets = [bytearray(piece.length) for piece in pieces]
    assert reader.read_many(pieces, targets) == [None] * len(pieces)
    assert targets[1:] == [data[r][start : start + size] for r, start, size in wanted]


def test_a_bad_piece_spoils_no_other(owner: Owner, reader: Transfer) -> None:
    region = owner.expose(content(1))
    good = owner.piece(region, 10, 100)
    bad = replace(good, checksum=good.checksum ^ 1)
    outside = replace(good, offset=SIZE)
    closed = owner.expose(content(2))
    gone = owner.piece(closed, 0, 100)
    owner.close(closed)
    pieces = [good, bad, outside, gone, good]
    errors = reader.read_many(pieces, [bytearray(100) for _ in pieces])
    kinds = [error and error.kind for error in errors]
    assert kinds == [None, "corrupt", "refused", "gone", None]


def test_an_empty_batch_is_nothing(reader: Transfer) -> None:
    assert reader.read_many([], []) == []


def test_what_changed_after_its_checksum_is_refused(owner: Owner, reader: Transfer) -> None:
    region = owner.expose(content(1))
    piece, beside = owner.piece(region, 1000, 500), owner.piece(region, 0, 1000)
    owner.write(region, 1499, bytes([content(1)[1499] ^ 0x10]))
    with pytest.raises(CorruptError):
        reader.read(piece, bytearray(500))
    reader.read(beside, bytearray(1000))
    reader.read(owner.piece(region, 1000, 500), bytearray(500))


HUGE = (-1, -(2**63), SIZE + 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1)


@pytest.mark.parametrize("number", HUGE)
def test_out_of_bounds_is_refused(owner: Owner, reader: Transfer, number: int) -> None:
    piece = owner.piece(owner.expose(content(1)), 0, 10)
    with pytest.raises(RefusedError):
        reader.read(replace(piece, offset=number), bytearray(10))
    with pytest.raises(RefusedError):
        reader.read(replace(piece, length=number), bytearray(10))


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 2**40, 2**63, -1])
def test_a_region_that_lies_about_its_size_gives_nothing_beyond_it(
    owner: Owner, reader: Transfer, size: int
) -> None:
    piece = owner.piece(owner.expose(content(1)), 0, 10)
    lie = replace(piece, region=replace(piece.region, size=size), offset=size - 10)
    with pytest.raises(TransferError):
        reader.read(lie, bytearray(10))
    reader.read(piece, bytearray(10))


@given(
    offset=st.integers(-(2**64), 2**64),
    length=st.integers(-(2**64), 2**64),
    size=st.integers(-(2**64), 2**64),
)
@settings(max_examples=30, deadline=None)
def test_arbitrary_numbers_never_break_a_reader(
    lasting: tuple[Parties, Owner], offset: int, length: int, size: int
) -> None:
    parties, owner = lasting
    piece = owner.piece(owner.expose(content(1)), 0, 10)
    wild = Piece(replace(piece.region, size=size), offset, length, 0)
    with pytest.raises(TransferError):
        parties.reader.read(wild, bytearray(10))
    parties.reader.read(piece, bytearray(10))


@pytest.mark.parametrize(
    "change",
    [
        {"token": bytes(16)},
        {"token": b""},
        {"token": bytes(5000)},
        {"kind": "carrier pigeon"},
        {"kind": ""},
    ],
)
def test_a_forged_region_is_not_read(
    owner: Owner, reader: Transfer, change: dict[str, object]
) -> None:
    piece = owner.piece(owner.expose(content(1)), 0, 10)
    with pytest.raises((GoneError, RefusedError)):
        reader.read(replace(piece, region=replace(piece.region, **change)), bytearray(10))
    reader.read(piece, bytearray(10))


def test_a_place_of_another_size_is_refused(owner: Owner, reader: Transfer) -> None:
    piece = owner.piece(owner.expose(content(1)), 0, 10)
    for size in (0, 9, 11):
        with pytest.raises(RefusedError):
            reader.read(piece, bytearray(size))


def test_a_place_that_cannot_be_written_is_a_mistake_of_the_caller(
    owner: Owner, reader: Transfer
) -> None:
    piece = owner.piece(owner.expose(content(1)), 0, 10)
    with pytest.raises(ValueError, match="writable"):
        reader.read(piece, memoryview(bytes(10)))
    with pytest.raises(ValueError, match="one run"):
        reader.read(piece, memoryview(bytearray(20))[::2])
    with pytest.raises(ValueError, match="targets"):
        reader.read_many([piece], [])


def test_a_closed_region_is_gone_also_for_who_has_read_it(owner: Owner, reader: Transfer) -> None:
    region, other = owner.expose(content(1)), owner.expose(content(2))
    piece, still = owner.piece(region, 0, 10), owner.piece(other, 0, 10)
    reader.read(piece, bytearray(10))
    owner.close(region)
    for _ in range(2):
        with pytest.raises(GoneError):
            reader.read(piece, bytearray(10))
    reader.read(still, bytearray(10))


def test_a_new_region_is_not_taken_for_an_old_one(owner: Owner, reader: Transfer) -> None:
    old = owner.piece(owner.expose(content(1)), 0, SIZE)
    owner.close(old.region)
    # The same content, perhaps at the same address: the token tells them apart.
    fresh = owner.expose(content(1))
    with pytest.raises(GoneError):
        reader.read(old, bytearray(SIZE))
    reader.read(owner.piece(fresh, 0, SIZE), bytearray(SIZE))


def test_many_threads_read_at_once(owner: Owner, reader: Transfer) -> None:
    data = content(3)
    region = owner.expose(data)
    spans = [(k * 4999 % (SIZE - 4000), 1 + k * 37 % 4000) for k in range(24)]
    pieces = [Piece(region, start, n, checksum(data[start : start + n])) for start, n in spans]

    def read_all(shift: int) -> bool:
        turned = pieces[shift:] + pieces[:shift]
        targets = [bytearray(piece.length) for piece in turned]
        errors = reader.read_many(turned, targets)
        right = all(
            target == data[piece.offset : piece.offset + piece.length]
            for piece, target in zip(turned, targets, strict=True)
        )
        return right and errors == [None] * len(turned)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(read_all, list(range(24)) * 8))


def test_a_killed_owner_is_gone_and_the_others_are_not(parties: Parties) -> None:
    doomed, healthy = parties.owner(), parties.owner()
    piece = doomed.piece(doomed.expose(content(1)), 0, SIZE)
    other = healthy.piece(healthy.expose(content(2)), 0, SIZE)
    parties.reader.read(piece, bytearray(SIZE))
    doomed.kill()
    errors = parties.reader.read_many([piece, other, piece], [bytearray(SIZE) for _ in range(3)])
    assert [error and error.kind for error in errors] == ["gone", None, "gone"]
    with pytest.raises(GoneError):
        parties.reader.read(piece, bytearray(SIZE))


def test_an_owner_killed_while_it_is_read_yields_right_bytes_or_none(parties: Parties) -> None:
    owner = parties.owner()
    part, count = 20_000, 200
    data = content(1, part * count)
    region = owner.expose(data)
    pieces = [
        Piece(region, start, part, checksum(data[start : start + part]))
        for start in range(0, len(data), part)
    ]
    begun = threading.Event()
    outcomes: list[tuple[TransferError | None, bool]] = []

    def read_on() -> None:
        while not (outcomes and outcomes[-1][0]):
            targets = [bytearray(part) for _ in pieces]
            errors = parties.reader.read_many(pieces, targets)
            outcomes.extend(
                (error, target == data[piece.offset : piece.offset + part])
                for error, target, piece in zip(errors, targets, pieces, strict=True)
            )
            begun.set()

    thread = threading.Thread(target=read_on)
    thread.start()
    assert begun.wait(60)
    owner.kill()
    thread.join(60)
    assert not thread.is_alive()
    assert all(right for error, right in outcomes if error is None)
    assert {error.kind for error, _ in outcomes if error} == {"gone"}


def test_a_stopped_owner_costs_patience_and_is_read_again_when_it_goes_on(
    parties: Parties,
) -> None:
    owner, healthy = parties.owner(), parties.owner()
    data = content(1)
    piece = owner.piece(owner.expose(data), 0, SIZE)
    other = healthy.piece(healthy.expose(content(2)), 0, SIZE)
    parties.reader.read(piece, bytearray(SIZE))
    owner.stop()
    for _ in range(3):
        target = bytearray(SIZE)
        error, none = parties.reader.read_many([piece, other], [target, bytearray(SIZE)], 0.2)
        # Shared memory is readable while its owner sleeps, and is right then.
        assert isinstance(error, TimedOutError) or (error is None and target == data)
        assert none is None
    owner.resume()
    assert eventually_read(parties.reader, piece) == data


def eventually_read(reader: Transfer, piece: Piece) -> bytes:
    """What a read gives as soon as the owner is admitted again."""
    for _ in range(200):
        target = bytearray(piece.length)
        (error,) = reader.read_many([piece], [target])
        if error is None:
            return bytes(target)
        assert isinstance(error, TimedOutError)
        time.sleep(0.05)
    raise AssertionError("the owner was not admitted again")


def test_a_closed_reader_reads_no_more(parties: Parties) -> None:
    owner = parties.owner()
    piece = owner.piece(owner.expose(content(1)), 0, 10)
    parties.reader.read(piece, bytearray(10))
    parties.reader.close()
    with pytest.raises(RefusedError):
        parties.reader.read(piece, bytearray(10))


def test_who_exposes_may_read_too(parties: Parties) -> None:
    """A peer reads its own memory as that of others: two roles may share a process."""
    exposed = parties.reader.allocate(SIZE)
    assert exposed.buffer.tobytes() == bytes(SIZE)
    exposed.buffer[:] = content(4)
    target = bytearray(SIZE)
    parties.reader.read(exposed.piece(0, SIZE), target)
    assert target == content(4)


def test_a_closed_region_has_no_buffer_but_its_views_stay(parties: Parties) -> None:
    exposed = parties.reader.allocate(10)
    view = exposed.buffer
    exposed.close()
    exposed.close()
    view[0] = 7
    assert view[0] == 7
    with pytest.raises(ValueError, match="closed"):
        _ = exposed.buffer


def test_pieces_lie_within_the_region(parties: Parties) -> None:
    exposed = parties.reader.allocate(10)
    for offset, length in ((0, 11), (11, 0), (-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="outside"):
            exposed.piece(offset, length)


def test_memory_of_negative_size_is_a_mistake_of_the_caller(reader: Transfer) -> None:
    with pytest.raises(ValueError, match="negative"):
        reader.allocate(-1)
