"""A block's file is found whole and right, or is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cache_blocks import content, key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silva.serving.cache import block_file
from silva.serving.cache.block_file import HEADER_BYTES, DamagedError, OpenBlock
from silva.serving.cache.names import BlockId, block_id, parse_file_name, space_of
from silva.transfer import checksum

BLOCK = BlockId(space_of("tenant"), key(1))
DATA = content(1, 5000)


def written(folder: Path, data: bytes = DATA) -> Path:
    path = folder / "block"
    block_file.write(path, folder / "new", BLOCK, memoryview(data), checksum(data))
    return path


def load(path: Path, block: BlockId = BLOCK) -> bytes:
    with OpenBlock(path, block) as opened:
        target = bytearray(opened.length)
        opened.read_into(memoryview(target))
        assert opened.checksum == checksum(target)
        return bytes(target)


@pytest.mark.parametrize("data", [DATA, b"", b"x"])
def test_what_is_written_is_read(tmp_path: Path, data: bytes) -> None:
    assert load(written(tmp_path, data)) == data
    assert os.listdir(tmp_path) == ["block"]


@given(position=st.integers(0, HEADER_BYTES + len(DATA) - 1), bit=st.integers(0, 7))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_flipped_bit_is_ever_served(tmp_path: Path, position: int, bit: int) -> None:
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(DamagedError):
        load(path)


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 4999])
def test_a_shortened_file_is_refused(tmp_path: Path, size: int) -> None:
    path = written(tmp_path)
    os.truncate(path, size)
    with pytest.raises(DamagedError):
        load(path)


def test_a_file_that_shrinks_while_it_is_open_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with OpenBlock(path, BLOCK) as opened:
        os.truncate(path, HEADER_BYTES + 10)
        with pytest.raises(DamagedError):
            opened.read_into(memoryview(bytearray(opened.length)))


def test_a_lengthened_or_zeroed_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    for data in (whole + b"x", bytes(len(whole)), whole[:HEADER_BYTES] + bytes(len(DATA))):
        path.write_bytes(data)
        with pytest.raises(DamagedError):
            load(path)


def test_another_key_or_namespace_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    for other in (BLOCK._replace(key=key(2)), BLOCK._replace(space=space_of("other"))):
        with pytest.raises(DamagedError):
            load(path, other)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedError):
        load(tmp_path / "pipe")
    with pytest.raises(DamagedError):
        load(tmp_path)
    (tmp_path / "link").symlink_to(written(tmp_path))
    with pytest.raises(OSError, match="symbolic"):
        load(tmp_path / "link")


def test_a_write_that_fails_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def fills_up(descriptor: int, parts: list[memoryview]) -> int:
        if os.fstat(descriptor).st_size:
            raise OSError(28, "No space left on device")
        return real(descriptor, [parts[0][:50]])

    monkeypatch.setattr(block_file.os, "writev", fills_up)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path)
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(
        block_file.os, "writev", lambda fd, parts: real(fd, [parts[0][:37], *parts[1:][:0]])
    )
    assert load(written(tmp_path)) == DATA


def test_a_name_says_whose_block_it_is() -> None:
    assert parse_file_name(BLOCK.file_name) == BLOCK
    assert parse_file_name(BLOCK.file_name.upper()) is None
    assert parse_file_name(BLOCK.file_name + "\n") is None
    assert BLOCK.shard == BLOCK.file_name[:2]


@given(st.text())
def test_other_names_are_nobodys(name: str) -> None:
    block = parse_file_name(name)
    assert block is None or block.file_name == name


def test_a_key_has_the_length_of_one() -> None:
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            block_id(space_of(""), bytes(size))
