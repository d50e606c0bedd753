"""The contract of moving bytes between peers: owners expose memory, others read it.

Reads are one-sided pulls. Nobody writes into another's memory, so a peer that was stopped and goes
on later cannot spoil anything; and every read is checked, so bytes that changed under a lease that
ran out are refused and never used.

    owner   exposed = transfer.allocate(size)          reader   transfer.read(piece, into)
            exposed.buffer[...] = ...
            piece = exposed.piece(offset, length)  ->  sent in a message (msgspec)
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypeAlias

import numpy as np
import xxhash

TOKEN_BYTES = 16
READ_TIMEOUT_S = 5.0
MAX_REGION_BYTES = 1 << 44
"""Far above any machine; keeps offsets and sizes from outside within 64 bits."""

Writable: TypeAlias = bytearray | memoryview
"""One run of bytes that can be written. `array.data` is NumPy's, `tensor.numpy().data` torch's."""
Readable: TypeAlias = bytes | bytearray | memoryview


class TransferError(Exception):
    """A read that delivered nothing that may be used; what the target holds now is arbitrary."""

    kind: ClassVar[str] = "failed"
    """A word for counters and messages."""


class GoneError(TransferError):
    """The owner died, or closed the region."""

    kind = "gone"


class CorruptError(TransferError):
    """The bytes are not those that were promised: damaged, or changed since the lease ran out."""

    kind = "corrupt"


class RefusedError(TransferError):
    """Asked for what may not be read: out of bounds, another kind or size, no permission."""

    kind = "refused"


class TimedOutError(TransferError):
    """The owner did not deliver in time: it is stopped, slow or cut off."""

    kind = "timeout"


@dataclass(frozen=True)
class Region:
    """Where exposed memory is. A plain value, sent to whoever shall read it."""

    kind: str
    """memory, shm or tcp: the transfer that can read it."""
    address: str
    """What the kind needs to find the owner: "pid:descriptor" for shm, "host:port" for tcp."""
    size: int
    """Bytes."""
    token: bytes
    """Random, new for every region: an address that was given out again is not taken for it."""


@dataclass(frozen=True)
class Piece:
    """Bytes [offset, offset + length) of a region, and their xxh3_64 as they were exposed."""

    region: Region
    offset: int
    length: int
    checksum: int


def checksum(data: Readable) -> int:
    """xxh3_64 of bytes. The object form lets other threads run meanwhile, the one call does not."""
    return xxhash.xxh3_64(data).intdigest()


def copy_bytes(source: memoryview, target: memoryview) -> None:
    """Copy between buffers of one length; unlike slice assignment it lets other threads run."""
    if len(target):
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def check_bounds(offset: int, length: int, size: int) -> None:
    """Raise RefusedError unless [offset, offset + length) lies within `size` bytes."""
    if not (0 <= size <= MAX_REGION_BYTES and 0 <= offset <= size and 0 <= length <= size - offset):
        raise RefusedError(f"bytes {offset} + {length} lie outside the region's {size}")


def check_size(size_bytes: int) -> None:
    """Raise ValueError for a size that no memory can have."""
    if size_bytes < 0:
        raise ValueError(f"size_bytes must not be negative, but is {size_bytes}")


class Exposed(ABC):
    """The owner's side of a region. Closing it, or the owner's death, ends all reads of it."""

    region: Region

    @property
    @abstractmethod
    def buffer(self) -> memoryview:
        """The region's bytes, writable, zero at first. ValueError when the region is closed.

        Views of it (NumPy, torch) stay valid after `close`; the memory goes with the last of them.
        """

    @abstractmethod
    def close(self) -> None:
        """Let nobody read any more. May be called again."""

    def piece(self, offset: int, length: int) -> Piece:
        """The descriptor of a part as it is now; the owner must leave it alone under the lease."""
        if not (offset >= 0 and length >= 0 and offset + length <= self.region.size):
            raise ValueError(f"{offset} + {length} is outside of {self.region.size} bytes")
        return Piece(self.region, offset, length, checksum(self.buffer[offset : offset + length]))


class Transfer(ABC):
    """One process's access to a kind of transfer: it exposes memory and reads that of others.

    All methods may be called by many threads at once.
    """

    kind: ClassVar[str]
    timeout_s: float = READ_TIMEOUT_S

    @abstractmethod
    def allocate(self, size_bytes: int) -> Exposed:
        """Expose new memory. ConfigError when it cannot be had, ValueError for a negative size."""

    @abstractmethod
    def close(self) -> None:
        """Close all regions that are still exposed, and everything that reading opened."""

    @abstractmethod
    def _fetch(
        self, region: Region, parts: Sequence[tuple[Piece, memoryview]], deadline_s: float
    ) -> Iterator[None]:
        """Fill each target in turn and yield after each.

        Pieces lie within the size that the region claims and match their targets' lengths; nothing
        else was checked. A TransferError ends the iteration and counts for all that is not filled.
        `deadline_s` is on time.monotonic().
        """

    def read(self, piece: Piece, into: Writable, timeout_s: float | None = None) -> None:
        """Fill `into` with a piece's bytes, verified; TransferError when that is not possible.

        ValueError when `into` cannot be written or is not one run of bytes.
        """
        (error,) = self.read_many([piece], [into], timeout_s)
        if error is not None:
            raise error

    def read_many(
        self, pieces: Sequence[Piece], into: Sequence[Writable], timeout_s: float | None = None
    ) -> list[TransferError | None]:
        """Read each piece into the target of the same place; None where that went well.

        Pieces of one region are asked for together, and `timeout_s` bounds them together: an owner
        that is stopped takes no time from another one.
        """
        if len(pieces) != len(into):
            raise ValueError(f"{len(pieces)} pieces for {len(into)} targets")
        targets = [_as_bytes(target) for target in into]
        errors: list[TransferError | None] = [None] * len(pieces)
        groups: dict[Region, list[int]] = {}
        for index, (piece, target) in enumerate(zip(pieces, targets, strict=True)):
            try:
                self._check(piece, target)
            except RefusedError as error:
                errors[index] = error
            else:
                groups.setdefault(piece.region, []).append(index)
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        for region, indices in groups.items():
            parts = [(pieces[index], targets[index]) for index in indices]
            done = self._read_group(region, parts, time.monotonic() + limit_s)
            for index, result in zip(indices, done, strict=True):
                errors[index] = result
        return errors

    def _check(self, piece: Piece, target: memoryview) -> None:
        if piece.region.kind != self.kind:
            raise RefusedError(f"a {piece.region.kind[:20]} region cannot be read by {self.kind}")
        check_bounds(piece.offset, piece.length, piece.region.size)
        if piece.length != len(target):
            raise RefusedError(f"a piece of {piece.length} bytes for a place of {len(target)}")

    def _read_group(
        self, region: Region, parts: Sequence[tuple[Piece, memoryview]], deadline_s: float
    ) -> list[TransferError | None]:
        results: list[TransferError | None] = []
        try:
            for _ in self._fetch(region, parts, deadline_s):
                piece, target = parts[len(results)]
                # What was copied is checked, not the source: that may change at any time.
                found = checksum(target)
                results.append(None if found == piece.checksum else _corrupt(piece, found))
        except TransferError as error:
            # One error object must not be raised by several threads: each piece has its own.
            results += [type(error)(*error.args) for _ in range(len(parts) - len(results))]
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _corrupt(piece: Piece, found: int) -> CorruptError:
    return CorruptError(
        f"bytes {piece.offset} + {piece.length} have checksum {found:016x}, "
        f"not {piece.checksum & (2**64 - 1):016x}"
    )


def _as_bytes(target: Writable) -> memoryview:
    view = memoryview(target)
    if view.readonly or not view.c_contiguous:
        raise ValueError("the target of a read must be writable and one run of bytes")
    # A view with a zero in its shape has no cast.
    return view.cast("B") if view.nbytes else memoryview(bytearray())
