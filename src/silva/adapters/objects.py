"""The content-addressed store: immutable safetensors files named by the SHA-256 of their bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from silva.adapters.files import TEMPORARY, canonical_json, parse_json, read_limited, write_atomic
from silva.errors import ForestError

MAX_OBJECT_BYTES = 1 << 30
MAX_TENSORS = 100_000
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: object) -> bool:
    """Whether `text` is a SHA-256 in hexadecimal, hence safe as a file's name."""
    return isinstance(text, str) and bool(_DIGEST.fullmatch(text))


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """safetensors bytes that depend on the content alone.

    The library writes metadata in a random order, so the header is written again, sorted.
    Raises ForestError for a dtype outside `DTYPES` or a value that is not finite.
    """
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, "new object")
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, dict(metadata))
    size = int.from_bytes(data[:8], "little")
    header = canonical_json(json.loads(data[8 : 8 + size]))
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def decode_tensors(data: bytes, where: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as float32, and metadata, of safetensors bytes; ForestError for anything else."""
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the library raises many types on hostile bytes
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ForestError(f"is not a safetensors file: {reason}", where=where) from error
    if len(tensors) > MAX_TENSORS:
        raise ForestError(f"holds more than {MAX_TENSORS} tensors", where=where)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, where)
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], where)
    metadata: dict[str, Any] = header.get("__metadata__") or {}
    return {name: tensor.float() for name, tensor in tensors.items()}, metadata


def _check_tensor(name: str, tensor: Tensor, where: object) -> None:
    if tensor.dtype not in DTYPES:
        raise ForestError(
            f"tensor {name[:120]!r} is {tensor.dtype}", where=where, remedy="use float32"
        )
    if not torch.isfinite(tensor).all():
        raise ForestError(f"tensor {name[:120]!r} holds NaN or infinity", where=where)


@dataclass(frozen=True)
class Stored:
    """An object that was put: `fresh` when it was not there before."""

    digest: str
    size_bytes: int
    fresh: bool


class ObjectStore:
    """The folder `objects/` of a forest. Objects are verified whenever they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ForestError(f"{digest[:80]!r} is not an object's digest", where=self.folder)
        return self.folder / digest

    def put(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Stored:
        """Write an object unless it is there, whole; a damaged one is written again."""
        data = encode_tensors(tensors, metadata)
        if len(data) > MAX_OBJECT_BYTES:
            raise ForestError(f"an object may have {MAX_OBJECT_BYTES} bytes", where=self.folder)
        digest = hashlib.sha256(data).hexdigest()
        path = self._file(digest)
        there = path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
        if not there:
            write_atomic(path, data)
        return Stored(digest, len(data), fresh=not there)

    def get(self, digest: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata; ForestError names an object that is missing or damaged."""
        data = self.read(digest)
        return decode_tensors(data, self._file(digest))

    def read(self, digest: str) -> bytes:
        """The bytes of an object, checked against its digest."""
        path = self._file(digest)
        remedy = "restore it from a copy, or roll back; `silva forest verify` lists all damage"
        data = read_limited(path, MAX_OBJECT_BYTES, remedy)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ForestError(
                "is damaged: its bytes do not match its digest", where=path, remedy=remedy
            )
        return data

    def has(self, digest: str) -> bool:
        return self._file(digest).is_file()

    def erase(self, digest: str) -> None:
        """Erase an object if it is there."""
        self._file(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Digests of all objects on disk, in no order."""
        return (p.name for p in self.folder.iterdir() if is_digest(p.name))

    def unfinished(self) -> list[Path]:
        """Temporary files that an interrupted write left behind."""
        return sorted(self.folder.glob(f"{TEMPORARY}*"))
