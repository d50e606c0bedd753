"""Safetensors files mapped into memory: tensors are views of the file, nothing is copied.

All processes that map a file share its pages. The mapping is private: what is written to a tensor
by mistake stays in the process that wrote it. The header is checked in full before anything is
mapped, so that no view leaves the file.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from silva.errors import ModelError
from silva.models.fields import first_line, short

LARGEST_HEADER_BYTES = 16 << 20
MOST_DIMENSIONS = 8
ALIGNMENT = 64
"""Where the data of the files that silva writes begins, in bytes: a line of the processor's cache."""

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
}
"""What a weight may be stored as."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: bytes [start, stop) from the file's beginning."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Placed:
    """One tensor of a file that is to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class MappedFile:
    """A safetensors file. `entries` is known after opening; pages are read when first used."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError when the file is not what the format promises."""
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                self.entries = _entries(file, size, path)
            self._bytes = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            raise ModelError(f"cannot be mapped ({first_line(error)})", where=path) from None

    def tensor(self, name: str) -> Tensor:
        """The tensor `name` as a view of the file."""
        return self._view(self.entries[name], self.entries[name].shape)

    def joined(self, names: Sequence[str]) -> Tensor | None:
        """Several tensors, one below the other, as one view; None unless they lie so in the file.

        [a, n], [b, n] -> [a + b, n]; also vectors [a], [b] -> [a + b].
        """
        parts = [self.entries[name] for name in names]
        for before, after in pairwise(parts):
            alike = before.dtype == after.dtype and before.shape[1:] == after.shape[1:]
            if not alike or before.stop != after.start:
                return None
        whole = Entry(parts[0].dtype, parts[0].shape, parts[0].start, parts[-1].stop)
        return self._view(whole, (sum(p.shape[0] for p in parts), *parts[0].shape[1:]))

    def _view(self, entry: Entry, shape: tuple[int, ...]) -> Tensor:
        raw = self._bytes[entry.start : entry.stop]
        if entry.start % entry.dtype.itemsize:  # no file of today, but the format allows it
            raw = raw.clone()
        return raw.view(entry.dtype).view(shape)


def _entries(file: BinaryIO, size: int, path: Path) -> dict[str, Entry]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(LARGEST_HEADER_BYTES, size - 8):
        raise _no_safetensors(path, "its header is longer than the file, or than the format allows")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _no_safetensors(path, first_line(error)) from None
    if not isinstance(header, dict):
        raise _no_safetensors(path, "its header is no table")
    header.pop("__metadata__", None)
    found = {name: _entry(name, raw, 8 + length, size, path) for name, raw in header.items()}
    end = 8 + length
    for entry in sorted(found.values(), key=lambda e: (e.start, e.stop)):
        if entry.start != end:
            raise _no_safetensors(path, "its tensors overlap, or leave gaps")
        end = entry.stop
    if end != size:
        raise _no_safetensors(path, f"{size - end} bytes belong to no tensor")
    return found


def _entry(name: str, raw: Any, data: int, size: int, path: Path) -> Entry:
    raw = raw if isinstance(raw, dict) else {}
    kind, shape, offsets = raw.get("dtype"), raw.get("shape"), raw.get("data_offsets")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ModelError(
            f"{name[:100]} holds {short(kind)}", where=path, remedy="silva reads float weights"
        )
    if not _naturals(shape) or len(shape) > MOST_DIMENSIONS:
        raise _no_safetensors(path, f"{name[:100]} has no shape")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _no_safetensors(path, f"{name[:100]} has no place")
    start, stop = (data + n for n in offsets)
    if stop > size or stop - start != math.prod(shape) * DTYPES[kind].itemsize:
        raise _no_safetensors(path, f"{name[:100]} does not lie in the file as its shape says")
    return Entry(DTYPES[kind], tuple(shape), start, stop)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _no_safetensors(path: Path, why: str) -> ModelError:
    return ModelError(
        f"is no safetensors file ({why})", where=path, remedy="fetch the model directory again"
    )


def write_mapped(file: BinaryIO, entries: Iterable[Placed], read: Callable[[str], Tensor]) -> None:
    """Write tensors in the order given, which is the order they lie in: what is joined stays so.

    `read(name)` gives one tensor at a time, of any float type; it is let go of before the next.
    """
    listed, start, header = list(entries), 0, {}
    for each in listed:
        stop = start + math.prod(each.shape) * each.dtype.itemsize
        header[each.name] = {
            "dtype": _NAMES[each.dtype],
            "shape": list(each.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for each in listed:
        tensor = read(each.name)
        if tuple(tensor.shape) != each.shape:
            raise ValueError(f"{each.name} is {list(tensor.shape)}, not {list(each.shape)}")
        flat = tensor.to(each.dtype).contiguous().view(-1).view(torch.uint8)
        file.write(flat.numpy().data)
