"""GGUF files: metadata and tensors, read within bounds.

The file is input from outside, and the reader of the package `gguf` trusts it, so that this one
checks every count, length, type and offset against the file's size before anything is allocated.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from silva.errors import ModelError
from silva.models.fields import first_line, short
from silva.models.gguf_types import TENSOR_TYPES, TensorType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LARGEST_METADATA_BYTES = 256 << 20
LARGEST_TEXT_BYTES = 16 << 20
LARGEST_NAME_BYTES = 1024
MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 17
MOST_STRINGS = 1 << 22
"""In one list; vocabularies have some 200,000 tokens and as many merges."""
MOST_DIMENSIONS = 4
LARGEST_ALIGNMENT = 1 << 20
CHUNK_ELEMENTS = 1 << 22
"""Decoded at a time, so that decoding takes little memory beside the result."""

_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4"}
_NUMBERS |= {10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies. `shape` is as in torch, rows first; GGUF counts the other way."""

    kind: TensorType
    shape: tuple[int, ...]
    start: int
    size: int


class GGUFFile:
    """A file's metadata, read; its tensors, to be read one by one."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError where the file is not what the format promises."""
        self.path = path
        try:
            with path.open("rb") as file:
                reader = _Reader(file, path)
                self.metadata, self.tensors = reader.read()
        except OSError as error:
            raise ModelError(f"cannot be read ({first_line(error)})", where=path) from None

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32, dequantised. Raises ModelError when the file cannot be read."""
        tensor = self.tensors[name]
        kind, left = tensor.kind, math.prod(tensor.shape)
        out = np.empty(left, dtype=np.float32)
        try:
            with self.path.open("rb") as file:
                file.seek(tensor.start)
                while left:
                    count = min(left, CHUNK_ELEMENTS)
                    raw = np.fromfile(file, np.uint8, kind.size_of(count))
                    if len(raw) != kind.size_of(count):
                        raise OSError("it has become shorter")
                    at = len(out) - left
                    out[at : at + count] = kind.decode(raw)
                    left -= count
        except OSError as error:
            raise ModelError(f"cannot be read ({first_line(error)})", where=self.path) from None
        return out.reshape(tensor.shape)


class _Reader:
    """One pass over the head of a file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = file.seek(0, 2)
        file.seek(0)
        self._left = min(self._size, LARGEST_METADATA_BYTES)

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if self._take(4) != MAGIC:
            raise self._broken("it does not begin with GGUF")
        version = self._integer("<I")
        if version not in VERSIONS:
            raise ModelError(
                f"is GGUF of version {version}, or of another byte order",
                where=self._path,
                remedy=f"silva reads the versions {' and '.join(map(str, VERSIONS))}, little-endian",
            )
        tensors, keys = self._integer("<Q"), self._integer("<Q")
        if keys > MOST_KEYS or tensors > MOST_TENSORS:
            raise self._broken(f"{keys} keys and {tensors} tensors")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text(LARGEST_NAME_BYTES)
            if key in metadata:
                raise self._broken(f"{short(key)} is there twice")
            metadata[key] = self._value(self._integer("<I"), key)
        places = [self._place() for _ in range(tensors)]
        return metadata, self._placed(places, self._data_start(metadata))

    def _data_start(self, metadata: dict[str, Any]) -> tuple[int, int]:
        """Where the tensors begin, and the multiple their offsets are of."""
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= LARGEST_ALIGNMENT:
            raise self._broken(f"alignment {short(alignment)}")
        return -(-self._file.tell() // alignment) * alignment, alignment

    def _place(self) -> tuple[str, TensorType, tuple[int, ...], int]:
        name = self._text(LARGEST_NAME_BYTES)
        dimensions = self._integer("<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._broken(f"{short(name)} has {dimensions} dimensions")
        shape = tuple(self._integer("<Q") for _ in range(dimensions))[::-1]
        code, offset = self._integer("<I"), self._integer("<Q")
        kind = TENSOR_TYPES.get(code)
        if kind is None:
            known = ", ".join(k.name for k in TENSOR_TYPES.values())
            raise ModelError(
                f"{short(name)} is of the tensor type {code}",
                where=self._path,
                remedy=f"silva reads {known}; get the model in one of these",
            )
        return name, kind, shape, offset

    def _placed(
        self, places: list[tuple[str, TensorType, tuple[int, ...], int]], data: tuple[int, int]
    ) -> dict[str, Tensor]:
        start, alignment = data
        found: dict[str, Tensor] = {}
        for name, kind, shape, offset in places:
            # rows are whole blocks; sizes are Python's integers, which do not overflow
            if min(shape) < 1 or shape[-1] % kind.block:
                raise self._broken(f"{short(name)} has the shape {list(shape)}")
            size = kind.size_of(math.prod(shape))
            if offset % alignment or start + offset + size > self._size:
                raise self._broken(f"{short(name)} does not lie in the file")
            if name in found:
                raise self._broken(f"{short(name)} is there twice")
            found[name] = Tensor(kind, shape, start + offset, size)
        return found

    def _value(self, code: int, key: str) -> Any:
        if code in _NUMBERS:
            return np.frombuffer(self._take(np.dtype(_NUMBERS[code]).itemsize), _NUMBERS[code])[
                0
            ].item()
        if code == _BOOL:
            return self._take(1) != b"\0"
        if code == _STRING:
            return self._text(LARGEST_TEXT_BYTES)
        if code != _ARRAY:
            raise self._broken(f"{short(key)} is of the value type {code}")
        inner, count = self._integer("<I"), self._integer("<Q")
        if inner == _STRING:
            if count > min(MOST_STRINGS, self._left // 8):
                raise self._broken(f"{short(key)} has {count} texts")
            return [self._text(LARGEST_TEXT_BYTES) for _ in range(count)]
        kind = "?" if inner == _BOOL else _NUMBERS.get(inner)
        if kind is None:
            raise self._broken(f"{short(key)} is a list of the value type {inner}")
        return np.frombuffer(self._take(count * np.dtype(kind).itemsize), kind)

    def _text(self, limit: int) -> str:
        size = self._integer("<Q")
        if size > limit:
            raise self._broken(f"a text of {size} bytes")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise self._broken("a text is no UTF-8") from None

    def _integer(self, kind: str) -> int:
        value: int = struct.unpack(kind, self._take(struct.calcsize(kind)))[0]
        return value

    def _take(self, size: int) -> bytes:
        """The next bytes; before they are read, that there are so many."""
        if size > self._left:
            raise self._broken("it ends within its metadata, or has more than silva reads")
        self._left -= size
        content = self._file.read(size)
        if len(content) != size:
            raise self._broken("it has become shorter")
        return content

    def _broken(self, why: str) -> ModelError:
        return ModelError(
            f"is no GGUF file that silva reads ({why})",
            where=self._path,
            remedy="fetch it again",
        )
