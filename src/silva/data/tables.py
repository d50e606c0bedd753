"""Tables in npz files: arrays of images, or image files back to back, with columns beside them.

Images are `images` (uint8 [n, h, w] or [n, h, w, 3]) or `blob` + `offsets` (image i is the file
blob[offsets[i]:offsets[i+1]]). `label` holds integers or words, `class_names` names the integers;
every other array with one integer or word an image is a column, and `<column>_names` names its
values. Keras' x_train / y_train and MedMNIST's train_images / train_labels are read too. Arrays
are never unpickled, and sizes are checked against the zip directory before anything is loaded.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from silva.data.columns import LABEL_COLUMNS, Column, array_column, assemble
from silva.data.nouns import ImageDataset, ImageSource
from silva.data.sources import ArraySource, EncodedSource
from silva.errors import DataError

MAX_BYTES = 8 * 2**30
"""Most bytes the arrays of one file may take in memory."""

IMAGE_ARRAYS = ("images", "image", "x", "X", "data")
_NAMES_OF_LABEL = ("class_names", "label_names", "classes")
_SIDES = (
    ("train", ("x_train", "y_train"), ("train_images", "train_labels")),
    ("val", ("x_val", "y_val"), ("val_images", "val_labels")),
    ("test", ("x_test", "y_test"), ("test_images", "test_labels")),
)

Arrays = Mapping[str, NDArray[np.generic]]


def read_npz(path: Path, *, split: str = "", labels: str = "") -> ImageDataset:
    """The data set in an npz file. Raises DataError for a damaged or oversized file, Python
    objects in it, missing arrays and columns of unequal length."""
    arrays = load_arrays(path)
    sided = _by_side(arrays, path)
    if sided is not None:
        images, columns = sided
        source: ImageSource = ArraySource(images, path)
    else:
        source = _source(arrays, path)
        columns = _columns(arrays, len(source), path, labels)
    return assemble(source, columns, where=path, title=path.stem, labels=labels, split=split)


def load_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """All arrays of an npz file by name, at most MAX_BYTES together, none of Python objects."""
    remedy = "download or make the file again"
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            size = sum(info.file_size for info in members)
            if size > MAX_BYTES:
                what = f"arrays of {size} bytes; the limit is {MAX_BYTES}"
                raise DataError(what, where=path, remedy="split the file up")
            return {info.filename[:-4]: _array(archive, info, path) for info in members}
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        NotImplementedError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise DataError(f"damaged npz file ({reason})", where=path, remedy=remedy) from None


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> NDArray[np.generic]:
    """One array, read only once its header agrees with the size of its member."""
    where = f"{path}: {info.filename[:-4][:60]}"
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        read_header = {
            (1, 0): npy.read_array_header_1_0,
            (2, 0): npy.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise DataError(f"npy version {version}", where=where, remedy="save it with numpy")
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject:
            raise DataError(
                "array of Python objects, which only unpickling could read",
                where=where,
                remedy="store numbers, or words as a str array",
            )
        count = 1
        for length in shape:
            count *= length
        size = count * dtype.itemsize
        if min(shape, default=0) < 0 or stream.tell() + size != info.file_size:
            raise DataError(
                f"header promises {size} bytes, the file holds {info.file_size - stream.tell()}",
                where=where,
                remedy="download or make the file again",
            )
        data = stream.read(size)
    if len(data) != size:
        raise DataError("array is cut short", where=where, remedy="download the file again")
    if size == 0:
        return np.empty(shape, dtype=dtype)
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _source(arrays: Arrays, path: Path) -> ImageSource:
    if "blob" in arrays and "offsets" in arrays:
        return EncodedSource(arrays["blob"], arrays["offsets"], path)  # type: ignore[arg-type]
    for name in IMAGE_ARRAYS:
        if name in arrays:
            return ArraySource(arrays[name], f"{path}: {name}")  # type: ignore[arg-type]
    found = ", ".join(sorted(arrays)) or "none"
    raise DataError(
        f"no images (arrays: {found})",
        where=path,
        remedy="store them as images, or as blob and offsets",
    )


def _columns(arrays: Arrays, count: int, path: Path, labels: str) -> dict[str, Column]:
    """Every array with one integer or word an image, named by its companion.

    A label, split or wanted column is taken at any length, so that `assemble` can report it.
    """
    wanted = {labels, "split", *LABEL_COLUMNS}
    columns = {}
    for name, array in arrays.items():
        if name in ("blob", "offsets", *IMAGE_ARRAYS) or name.endswith("_names"):
            continue
        array = _column_shape(array)
        fits = array.ndim == 1 and len(array) == count and array.dtype.kind in "iubU"
        if fits or (name in wanted and name not in _NAMES_OF_LABEL):
            names = _value_names(arrays, name, path)
            columns[name] = array_column(array, names, f"{path}: {name}")
    return columns


def _column_shape(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _value_names(arrays: Arrays, column: str, path: Path) -> tuple[str, ...]:
    keys = [f"{column}_names", *(_NAMES_OF_LABEL if column in LABEL_COLUMNS else ())]
    for key in keys:
        names = arrays.get(key)
        if names is not None:
            if names.ndim != 1 or names.dtype.kind != "U":
                raise DataError("not a row of words", where=f"{path}: {key}", remedy="store str")
            return tuple(str(name) for name in names)
    return ()


def _by_side(arrays: Arrays, path: Path) -> tuple[NDArray[np.uint8], dict[str, Column]] | None:
    """Images and columns where train and test are arrays of their own; None where they are not."""
    found = [
        (side, arrays[images], _column_shape(arrays[targets]))
        for side, *pairs in _SIDES
        for images, targets in pairs
        if images in arrays and targets in arrays
    ]
    if not found:
        return None
    for side, images, targets in found:
        if len(images) != len(targets) or images.shape[1:] != found[0][1].shape[1:]:
            raise DataError(
                f"{side} images {list(images.shape)} do not fit labels {list(targets.shape)}",
                where=path,
                remedy="download or make the file again",
            )
    words = [side for side, _, _ in found]
    sides = np.repeat(np.arange(len(found)), [len(images) for _, images, _ in found])
    columns = {
        "label": array_column(
            np.concatenate([targets for _, _, targets in found]),
            _value_names(arrays, "label", path),
            f"{path}: labels",
        ),
        "split": Column(sides.astype(np.int64), tuple(words)),
    }
    images = np.concatenate([images for _, images, _ in found])
    return images, columns  # type: ignore[return-value]
