"""One door for every format: a path or a known name becomes an `ImageDataset`.

Files are told apart by their first bytes, folders by what lies in them.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from silva.data import embedded
from silva.data.cifar import ARCHIVES, FOLDERS, is_cifar_folder, read_cifar
from silva.data.folders import is_level_path, read_folder
from silva.data.idx import is_idx_name, read_idx_set
from silva.data.lists import find_lists, read_lists
from silva.data.nouns import ImageDataset
from silva.data.tables import read_npz
from silva.errors import DataError

_HUB = "hub:"


def open_dataset(path_or_name: str, *, split: str = "", labels: str = "") -> ImageDataset:
    """The data set at a path, or of a known name ("embedded", "fashion-groups", "hub:owner/name").

    Formats: CIFAR-10/100 python archive or folder; IDX (MNIST, Fashion-MNIST); npz; parquet;
    DomainNet and PACS list files; trees of images (`silva.data.folders`).

    split   a column of train / test, or a share of test images such as "0.2"; "" as the format has
            it (`ImageDataset.split` is None where it has none)
    labels  the label column; for a tree of images what its levels mean, such as "domain/class"

    Raises DataError, in one line with a remedy, for whatever cannot be read.
    """
    if path_or_name in embedded.NAMES:
        return embedded.read_embedded(split=split, labels=labels)
    if path_or_name.startswith(_HUB):
        from silva.data.hub import read_hub

        return read_hub(path_or_name, split=split, labels=labels)
    path = Path(path_or_name).expanduser()
    try:
        if path_or_name and path.is_dir():
            return _open_folder(path, split, labels)
        if path_or_name and path.is_file():
            return _file_reader(path)(path, split=split, labels=labels)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no usable path"
        raise DataError(f"cannot be read ({reason})", where=path, remedy="check it") from None
    raise DataError(
        "no such file or folder" if path_or_name else "no data named",
        where=path_or_name,
        remedy=f"give a path, or one of {', '.join(embedded.NAMES)}, hub:owner/name",
    )


def _open_folder(folder: Path, split: str, labels: str) -> ImageDataset:
    if "/" in labels and is_level_path(labels):
        return read_folder(folder, split=split, labels=labels)
    for path in (folder, *(folder / name for name in (*FOLDERS, *ARCHIVES))):
        if path.is_file() or is_cifar_folder(path):
            return read_cifar(path, split=split, labels=labels)
    if any(is_idx_name(entry.name) for entry in folder.iterdir()):
        return read_idx_set(folder, split=split, labels=labels)
    if files := _parquet_files(folder):
        from silva.data.parquet import read_parquet

        return read_parquet(files, split=split, labels=labels)
    if find_lists(folder):
        return read_lists(folder, split=split, labels=labels)
    return read_folder(folder, split=split, labels=labels)


def _parquet_files(folder: Path) -> list[Path]:
    """Parquet files in `folder`, its `data` folder or one folder a split."""
    for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _file_reader(path: Path) -> Callable[..., ImageDataset]:
    with path.open("rb") as stream:
        start = stream.read(512)
    if start.startswith(b"\x1f\x8b"):
        start = _unpacked_start(path)
    if start[:3] == b"\0\0\x08":
        return read_idx_set
    if start[257:262] == b"ustar":
        return read_cifar
    if start.startswith(b"PAR1"):
        from silva.data.parquet import read_parquet

        return lambda file, **options: read_parquet([file], **options)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return read_npz
    raise DataError(
        "unknown format" if start else "empty file",
        where=path,
        remedy="give a CIFAR archive, IDX, npz or parquet file, or a folder of images",
    )


def _unpacked_start(path: Path) -> bytes:
    try:
        with gzip.open(path) as stream:
            return stream.read(512)
    except (EOFError, zlib.error, OSError) as error:
        reason = " ".join(str(error).split())[:80]
        raise DataError(
            f"damaged gzip file ({reason})", where=path, remedy="download the file again"
        ) from None
