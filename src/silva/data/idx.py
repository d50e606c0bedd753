"""IDX files, gzipped or not: MNIST, Fashion-MNIST, EMNIST.

A set is a pair of files for training and one for testing, found by their customary names such as
train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silva.data.columns import Column, assemble
from silva.data.nouns import TEST, TRAIN, ImageDataset
from silva.data.sources import ArraySource
from silva.errors import DataError

MAX_BYTES = 2**30
"""Most bytes a file may hold unpacked; EMNIST, the largest set in use, has 550 million."""

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# IDX holds no class names, and Fashion-MNIST has the file names of MNIST: its labels tell it.
_FASHION_LABELS = frozenset(
    (
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    )
)
"""SHA-256 of the labels of its train and its test file."""

_IMAGES = re.compile(r"(?P<set>.*?)(?P<side>train|t10k|test)[-_.]images[-_.]idx3-ubyte(?:\.gz)?")
_AGAIN = "download the file again"


def is_idx_name(name: str) -> bool:
    """Whether a file of this name is one of a set's IDX files."""
    return _IMAGES.fullmatch(name.replace("labels", "images").replace("idx1", "idx3")) is not None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes as an array of the shape its header gives.

    Raises DataError unless header, size and payload agree.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as stream:
                return _read(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())[:80]
        raise DataError(f"cannot be read ({reason})", where=path, remedy=_AGAIN) from None


def _read(stream: io.BufferedIOBase, path: Path) -> NDArray[np.uint8]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise DataError("not an IDX file of unsigned bytes", where=path, remedy=_AGAIN)
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError("IDX header is cut short", where=path, remedy=_AGAIN)
    shape = struct.unpack(f">{magic[3]}I", header)
    size = 1
    for length in shape:
        size *= length
    if size > MAX_BYTES:
        what = f"IDX header claims {size} bytes; the limit is {MAX_BYTES}"
        raise DataError(what, where=path, remedy=_AGAIN)
    # One byte more than promised: a longer file is another file than its header says.
    data = stream.read(size + 1)
    if len(data) != size:
        found = "fewer" if len(data) < size else "more"
        raise DataError(f"IDX file has {found} bytes than its header", where=path, remedy=_AGAIN)
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def read_idx_set(path: Path, *, split: str = "", labels: str = "") -> ImageDataset:
    """The IDX set in folder `path`, or the one that the file `path` belongs to.

    Images uint8 [n, h, w]. Raises DataError when a folder holds several sets (name a file then),
    when a file lacks its partner, and when images and labels differ in number.
    """
    folder = path if path.is_dir() else path.parent
    wanted = None if path.is_dir() else _set_name(path)
    sets: dict[str, dict[int, Path]] = {}
    for entry in sorted(folder.iterdir()):
        if (match := _IMAGES.fullmatch(entry.name)) and wanted in (None, match["set"]):
            side = TRAIN if match["side"] == "train" else TEST
            sets.setdefault(match["set"], {}).setdefault(side, entry)
    if len(sets) != 1:
        what = "several IDX sets in it" if sets else "no IDX image files in it"
        raise DataError(what, where=folder, remedy="give the path of one images-idx3-ubyte file")
    ((name, files),) = sets.items()
    parts = [(side, *_pair(images)) for side, images in sorted(files.items())]
    if len({images.shape[1:] for _, images, _ in parts}) > 1:
        raise DataError("train and test images differ in size", where=folder, remedy=_AGAIN)
    targets = np.concatenate([values for _, _, values in parts])
    columns = {"label": Column(targets.astype(np.int64), _class_names(parts[0][2]))}
    if len(parts) > 1:
        sides = np.repeat([side for side, _, _ in parts], [len(values) for _, _, values in parts])
        columns["split"] = Column(sides.astype(np.int64))
    source = ArraySource(np.concatenate([images for _, images, _ in parts]), folder)
    title = "Fashion-MNIST" if columns["label"].names else name.strip("-_.") or folder.name
    return assemble(source, columns, where=folder, title=title, labels=labels, split=split)


def _set_name(path: Path) -> str:
    name = path.name.replace("labels", "images").replace("idx1", "idx3")
    if match := _IMAGES.fullmatch(name):
        return match["set"]
    raise DataError(
        "an IDX file whose partner its name does not tell",
        where=path,
        remedy="name the files as MNIST does: train-images-idx3-ubyte, train-labels-idx1-ubyte",
    )


def _pair(images: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [n, h, w] and labels [n] of one side."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    stem = name.removesuffix(".gz")
    candidates = (images.with_name(choice) for choice in (name, stem, f"{stem}.gz"))
    partner = next((path for path in candidates if path.is_file()), None)
    if partner is None:
        raise DataError(f"labels file {name} is missing", where=images.parent, remedy=_AGAIN)
    pixels, values = read_idx(images), read_idx(partner)
    if pixels.ndim != 3 or values.ndim != 1 or len(pixels) != len(values):
        raise DataError(
            f"images {list(pixels.shape)} and labels {list(values.shape)} do not belong together",
            where=images,
            remedy=_AGAIN,
        )
    return pixels, values


def _class_names(values: NDArray[np.uint8]) -> tuple[str, ...]:
    known = hashlib.sha256(values.tobytes()).hexdigest() in _FASHION_LABELS
    return FASHION_CLASSES if known else ()
