"""A block as a file: written whole or not at all, and verified whenever it is read.

    magic [8]  version u32  zero u32  length u64  checksum u64  space [16]  key [32]  own checksum u64
    payload [length]

All numbers are little-endian; both checksums are xxh3_64, the last one of the header before it.
There is no fsync: after a power cut a file may be short, zero or torn, and then it fails the check.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from pathlib import Path
from typing import Self

from silva.serving.cache.names import BlockId
from silva.transfer import checksum

FORMAT_VERSION = 1
MAGIC = b"silva-kv"
_HEADER = struct.Struct("<8sIIQQ16s32s")
HEADER_BYTES = _HEADER.size + 8


class DamagedError(Exception):
    """A file does not hold the block that its name promises."""


def header(block: BlockId, length: int, payload_checksum: int) -> bytes:
    """The bytes before a payload."""
    space = bytes.fromhex(block.space)
    body = _HEADER.pack(MAGIC, FORMAT_VERSION, 0, length, payload_checksum, space, block.key)
    return body + checksum(body).to_bytes(8, "little")


def write(path: Path, temporary: Path, block: BlockId, payload: memoryview, check: int) -> None:
    """Write a new file under `temporary` and move it to `path`; OSError, and nothing is left."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        try:
            _write_all(descriptor, [memoryview(header(block, len(payload), check)), payload])
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_all(descriptor: int, parts: list[memoryview]) -> None:
    while parts:
        count = os.writev(descriptor, parts)
        while parts and count >= len(parts[0]):
            count -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][count:]


class OpenBlock:
    """A block's file, open for reading: its header was verified, its payload not yet.

    It stays readable when the file is deleted meanwhile.
    """

    def __init__(self, path: Path, block: BlockId) -> None:
        """OSError when the file cannot be opened or read, DamagedError when it is not the block."""
        self.path, self.block = path, block
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._descriptor = os.open(path, flags)
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DamagedError("is not a file")
            self.length = status.st_size - HEADER_BYTES
            found = os.pread(self._descriptor, HEADER_BYTES, 0)
            if self.length < 0 or len(found) < HEADER_BYTES:
                raise DamagedError("is too short")
            self.checksum = int(_HEADER.unpack(found[: _HEADER.size])[4])
            # What the header must be follows from the name, the size and the payload's checksum.
            if found != header(block, self.length, self.checksum):
                raise DamagedError("is not the block that its name says, or of another size")
        except BaseException:
            os.close(self._descriptor)
            raise

    def read_into(self, target: memoryview) -> None:
        """Fill `target`, of `length` bytes; OSError, or DamagedError when the bytes are wrong."""
        done = 0
        while done < self.length:
            count = os.preadv(self._descriptor, [target[done:]], HEADER_BYTES + done)
            if not count:
                raise DamagedError("ends too early")
            done += count
        if checksum(target) != self.checksum:
            raise DamagedError("holds other bytes than were written")

    def used_now(self) -> None:
        """Set the file's time, by which the order of use is found after a restart."""
        os.utime(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
