"""CIFAR-10 and CIFAR-100 as their authors publish them: pickled batches, in a tar or unpacked.

The archive is read member by member in memory, within limits; nothing is unpacked to disk, and the
pickles are read as data (`silva.data.safe_pickle`).
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silva.data.columns import Column, assemble
from silva.data.nouns import TEST, TRAIN, ImageDataset
from silva.data.safe_pickle import MAX_BYTES, read_table
from silva.data.sources import ArraySource, read_file
from silva.errors import DataError

MAX_ARCHIVE_BYTES = 512 * 2**20
"""Most bytes an archive may unpack to; CIFAR-100 takes 186 million."""

ARCHIVES = ("cifar-100-python.tar.gz", "cifar-10-python.tar.gz")
FOLDERS = ("cifar-100-python", "cifar-10-batches-py")

_CIFAR10_BATCH = re.compile(r"data_batch_[1-9]|test_batch|batches\.meta")
_CIFAR100_FILES = frozenset(("train", "test", "meta"))
_AGAIN = "download the archive again"


def is_cifar_folder(folder: Path) -> bool:
    """Whether `folder` holds the unpacked python batches (files without an ending)."""
    return (folder / "data_batch_1").is_file() or all(
        (folder / name).is_file() for name in _CIFAR100_FILES
    )


def read_cifar(path: Path, *, split: str = "", labels: str = "") -> ImageDataset:
    """CIFAR-10 or CIFAR-100 from the python archive (tar, tar.gz) or its unpacked folder.

    Images are uint8 [n, 32, 32, 3]. CIFAR-100 has the 100 fine classes as labels and the 20
    superclasses as column "coarse"; `labels="coarse"` swaps them. Raises DataError when a file is
    missing, cut short, inconsistent, or a pickle that wants to run code.
    """
    files = _folder_files(path) if path.is_dir() else dict(_archive_files(path))
    if "train" in files:
        return _cifar100(files, path, split, labels)
    if any(name.startswith("data_batch_") for name in files):
        return _cifar10(files, path, split, labels)
    raise DataError(
        "no CIFAR batches in it (train, test, meta or data_batch_*)",
        where=path,
        remedy="use the python version of CIFAR; unpack an archive of images yourself",
    )


def _wanted(name: str) -> bool:
    return name in _CIFAR100_FILES or _CIFAR10_BATCH.fullmatch(name) is not None


def _folder_files(folder: Path) -> dict[str, bytes]:
    names = sorted(entry.name for entry in folder.iterdir() if _wanted(entry.name))
    return {name: read_file(folder / name, MAX_BYTES) for name in names}


class _Bounded(io.RawIOBase):
    """A stream that stops with an error after MAX_ARCHIVE_BYTES: no archive can fill the memory."""

    def __init__(self, stream: io.BufferedIOBase, where: Path) -> None:
        self._stream, self._where, self._left = stream, where, MAX_ARCHIVE_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        if self._left <= 0:
            raise DataError(
                f"unpacks to more than {MAX_ARCHIVE_BYTES} bytes (decompression bomb?)",
                where=self._where,
                remedy="use the original archive",
            )
        return data


def _archive_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The batches in a tar by base name; links, devices and other names are passed over."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = _Bounded(gzip.GzipFile(fileobj=raw) if packed else raw, path)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    if member.isreg() and _wanted(name):
                        yield name, _member(archive, member, path)
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise DataError(f"damaged archive ({reason})", where=path, remedy=_AGAIN) from None


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    stream = archive.extractfile(member) if member.size <= MAX_BYTES else None
    if stream is None:
        raise DataError(
            f"member {member.name[:60]!r} of {member.size} bytes; the limit is {MAX_BYTES}",
            where=path,
            remedy="use the original archive",
        )
    data = stream.read()
    if len(data) != member.size:
        raise DataError(f"archive ends inside {member.name[:60]!r}", where=path, remedy=_AGAIN)
    return data


def _cifar100(files: Mapping[str, bytes], path: Path, split: str, labels: str) -> ImageDataset:
    _complete(files, ("train", "test"), path)
    tables = [read_table(files[name], f"{path}: {name}") for name in ("train", "test")]
    meta = read_table(files["meta"], f"{path}: meta") if "meta" in files else {}
    columns = {
        "label": Column(
            _integers(tables, "fine_labels", path), _names(meta, "fine_label_names", path)
        ),
        "coarse": Column(
            _integers(tables, "coarse_labels", path), _names(meta, "coarse_label_names", path)
        ),
    }
    return _dataset(tables, [TRAIN, TEST], columns, path, "CIFAR-100", split, labels)


def _cifar10(files: Mapping[str, bytes], path: Path, split: str, labels: str) -> ImageDataset:
    batches = [f"data_batch_{i + 1}" for i in range(5)]
    _complete(files, [*batches, "test_batch"], path)
    tables = [read_table(files[name], f"{path}: {name}") for name in [*batches, "test_batch"]]
    meta = read_table(files["batches.meta"], f"{path}: meta") if "batches.meta" in files else {}
    columns = {
        "label": Column(_integers(tables, "labels", path), _names(meta, "label_names", path))
    }
    sides = [TRAIN] * len(batches) + [TEST]
    return _dataset(tables, sides, columns, path, "CIFAR-10", split, labels)


def _complete(files: Mapping[str, bytes], names: tuple[str, ...] | list[str], path: Path) -> None:
    for name in names:
        if name not in files:
            raise DataError(f"no {name!r} in it", where=path, remedy=_AGAIN)


def _dataset(
    tables: list[dict[str, Any]],
    sides: list[int],
    columns: dict[str, Column],
    path: Path,
    title: str,
    split: str,
    labels: str,
) -> ImageDataset:
    images = [_images(table, path) for table in tables]
    codes = np.repeat(sides, [len(part) for part in images]).astype(np.int64)
    columns["split"] = Column(codes)
    source = ArraySource(np.concatenate(images), path)
    return assemble(source, columns, where=path, title=title, labels=labels, split=split)


def _images(table: dict[str, Any], path: Path) -> NDArray[np.uint8]:
    """Rows of 3072 bytes (red, green, blue planes) as [n, 32, 32, 3]."""
    data = table.get("data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
        raise DataError("'data' is no uint8 array [n, 3072]", where=path, remedy=_AGAIN)
    if data.shape[1] != 3072:
        raise DataError(f"images of {data.shape[1]} bytes, not 3072", where=path, remedy=_AGAIN)
    planes: NDArray[np.uint8] = data.reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _integers(tables: list[dict[str, Any]], key: str, path: Path) -> NDArray[np.int64]:
    parts: list[NDArray[np.int64]] = []
    for table in tables:
        values = table.get(key)
        values = values.tolist() if isinstance(values, np.ndarray) else values
        if not isinstance(values, list) or not all(
            type(value) is int and abs(value) < 2**31 for value in values
        ):
            raise DataError(f"{key!r} is no list of integers", where=path, remedy=_AGAIN)
        parts.append(np.array(values, dtype=np.int64))
    return np.concatenate(parts)


def _names(meta: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    values = meta.get(key, [])
    if not isinstance(values, list) or not all(isinstance(v, (str, bytes)) for v in values):
        raise DataError(f"{key!r} is no list of names", where=path, remedy=_AGAIN)
    return tuple(v.decode("latin-1") if isinstance(v, bytes) else v for v in values)
