"""Shared memory: nothing is left behind, nothing else is mapped, nobody else can write."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transfer_parties import ProcessOwner

from silva.errors import ConfigError
from silva.transfer import GoneError, Piece, RefusedError, Region, memfd, shm
from silva.transfer.shm import HEADER_BYTES, ShmTransfer, check_support

SIZE = 3 * 4096


@pytest.fixture
def owner() -> Iterator[ProcessOwner]:
    owner = ProcessOwner("shm")
    yield owner
    owner.end()


@pytest.fixture
def reader() -> Iterator[ShmTransfer]:
    with ShmTransfer() as reader:
        yield reader


def descriptors() -> set[str]:
    gc.collect()
    links = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.add(f"{entry.name} {entry.readlink()}")
    return links


def mapped() -> int:
    """Regions that this process maps, by the kernel's account."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:silva-")


def link_of(region: Region) -> str:
    pid, number = region.address.split(":")
    return f"/proc/{pid}/fd/{number}"


def read(reader: ShmTransfer, piece: Piece) -> bytes:
    target = bytearray(piece.length)
    reader.read(piece, target)
    return bytes(target)


def test_a_region_is_mapped_once_and_let_go_when_it_closes(
    owner: ProcessOwner, reader: ShmTransfer
) -> None:
    before, maps = descriptors(), mapped()
    region = owner.expose(b"a" * SIZE)
    pieces = [owner.piece(region, k * 100, 100) for k in range(5)]
    assert all(read(reader, piece) == b"a" * 100 for piece in pieces)
    assert reader.mapped == 1 and mapped() == maps + 1
    owner.close(region)
    reader._drop_dead()
    assert reader.mapped == 0 and mapped() == maps
    assert descriptors() == before


def test_a_dead_owners_memory_is_let_go_though_nobody_reads(
    owner: ProcessOwner, reader: ShmTransfer
) -> None:
    maps = mapped()
    region = owner.expose(b"a" * SIZE)
    read(reader, owner.piece(region, 0, 1))
    owner.kill()
    reader._drop_dead()
    assert reader.mapped == 0 and mapped() == maps


def test_a_transfer_that_closes_while_a_region_is_mapped_keeps_nothing(
    owner: ProcessOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, reader, real = mapped(), ShmTransfer(), memfd.attach
    piece = owner.piece(owner.expose(b"a" * SIZE), 0, 1)

    def close_meanwhile(*args: Any, **settings: Any) -> mmap.mmap:
        reader.close()
        return real(*args, **settings)

    monkeypatch.setattr(memfd, "attach", close_meanwhile)
    with pytest.raises(RefusedError, match="closed"):
        reader.read(piece, bytearray(1))
    assert reader.mapped == 0 and mapped() == maps


def test_a_killed_owner_leaves_no_name_anywhere(owner: ProcessOwner) -> None:
    before = set(os.listdir("/dev/shm"))
    owner.expose(b"a" * SIZE)
    owner.kill()
    assert set(os.listdir("/dev/shm")) <= before


def test_closing_an_owner_gives_its_memory_back() -> None:
    before, maps = descriptors(), mapped()
    transfer = ShmTransfer()
    exposed = [transfer.allocate(SIZE) for _ in range(3)]
    exposed[0].close()
    transfer.close()
    del exposed
    assert descriptors() == before and mapped() == maps


def test_a_closed_region_gives_its_memory_back_at_once() -> None:
    with ShmTransfer() as transfer:
        before = descriptors()
        exposed = transfer.allocate(SIZE)
        exposed.close()
        del exposed
        assert descriptors() == before


def test_readers_cannot_write(owner: ProcessOwner) -> None:
    region = owner.expose(b"a" * SIZE)
    descriptor = os.open(link_of(region), os.O_RDWR)
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, HEADER_BYTES + SIZE)
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", HEADER_BYTES)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def test_another_file_under_the_same_number_is_not_read(reader: ShmTransfer) -> None:
    """After a region was closed its descriptor's number goes to the next file that is opened."""
    with ShmTransfer() as transfer:
        exposed = transfer.allocate(SIZE)
        piece = exposed.piece(0, 10)
        number = int(exposed.region.address.split(":")[1])
        spare = os.open("/dev/zero", os.O_RDWR)
        exposed.close()
        os.dup2(spare, number)
        with pytest.raises(GoneError):
            reader.read(piece, bytearray(10))
        os.close(spare)
        os.close(number)


def test_memory_that_could_shrink_is_refused(reader: ShmTransfer) -> None:
    token = b"0123456789abcdef"
    descriptor = os.memfd_create(f"silva-{token.hex()}", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, HEADER_BYTES + SIZE)
    region = Region("shm", f"{os.getpid()}:{descriptor}", SIZE, token)
    with pytest.raises(RefusedError, match="sealed"):
        reader.read(Piece(region, 0, 1, 0), bytearray(1))
    os.close(descriptor)


@pytest.mark.parametrize(
    "address",
    ["", ":", "1", "1:", ":1", "0:1", "-1:3", "1:3:5", "a:b", "9" * 20 + ":1", "²:1", "../1:2",
     f"{2**31}:1", f"1:{2**31}", "1:" + "0" * 5000],
)  # fmt: skip
def test_an_address_from_outside_is_checked(reader: ShmTransfer, address: str) -> None:
    with pytest.raises(RefusedError):
        reader.read(Piece(Region("shm", address, 10, bytes(16)), 0, 1, 0), bytearray(1))


def test_a_process_that_may_not_be_looked_into_is_named(
    owner: ProcessOwner, reader: ShmTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = owner.piece(owner.expose(b"a" * SIZE), 0, 1)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(shm.os, "readlink", refuse)
    with pytest.raises(RefusedError, match="--transfer tcp"):
        reader.read(piece, bytearray(1))


@pytest.mark.parametrize("missing", ["memfd_create", "pidfd_open"])
def test_a_kernel_without_it_is_told_of_the_other_transfer(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def absent(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    before = descriptors()
    monkeypatch.setattr(shm.os, missing, absent)
    with pytest.raises(ConfigError, match="--transfer tcp"):
        ShmTransfer()
    monkeypatch.delattr(shm.os, missing)
    with pytest.raises(ConfigError, match="--transfer tcp"):
        check_support()
    assert descriptors() == before


@pytest.mark.parametrize("size", [2**62, 2**70])
def test_memory_that_cannot_be_had(size: int) -> None:
    before = descriptors()
    with ShmTransfer() as transfer, pytest.raises(ConfigError, match="less"):
        transfer.allocate(size)
    assert descriptors() == before
