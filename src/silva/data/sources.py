"""Images wherever they lie: an array, encoded files in memory, or files on disk; decoded on demand.

Whatever the source, an image becomes RGB of one square size in the same way (`square`), so a data
set gives the same pixels from an archive as from a folder. Bytes from outside are bounded before
they are decoded: a file by MAX_FILE_BYTES, its pixels by MAX_PIXELS.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from silva.errors import DataError

MAX_PIXELS = 64 * 2**20
MAX_FILE_BYTES = 64 * 2**20

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Formats that Pillow may try. Left out on purpose: those that start another program (EPS)."""

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
"""File name endings, in lower case, that a folder reader takes for images."""

_REMEDY = "replace or remove this image"


def square(image: Image.Image, side: int) -> Image.Image:
    """`image` squeezed to `side` x `side`, without cropping: every pixel of the picture counts.

    An integer factor down is a box filter (exact means); anything else is bicubic, which Pillow
    widens to the footprint of a target pixel when it shrinks (no aliasing).
    """
    width, height = image.size
    if (width, height) == (side, side):
        return image
    if width % side == 0 and height % side == 0:
        return image.reduce((width // side, height // side))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB: 16-bit grey keeps its high byte, transparent parts turn white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of type {image.mode} have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def decode_image(data: bytes, side: int, where: object) -> NDArray[np.uint8]:
    """The image file `data` as uint8 [side, side, 3]; `where` names it in errors.

    The first frame counts, turned as its EXIF data say. Large JPEGs are decoded at a reduced scale
    that keeps at least twice the wanted side. Raises DataError when `data` is too large, has too
    many pixels, is cut short or is no image.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(len(data), where)
    try:
        # Pillow warns of large images and odd palettes; the limit below and white answer both.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise _bomb(f"{width} x {height} pixels", where)
                image.draft(None, (2 * side, 2 * side))
                return np.array(square(_rgb(ImageOps.exif_transpose(image)), side))
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise _bomb("far too many pixels", where) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "unknown format" if data else "empty file"
        raise DataError(f"not a readable image ({reason})", where=where, remedy=_REMEDY) from None


def _too_large(size: int, where: object) -> DataError:
    what = f"image file of {size} bytes; the limit is {MAX_FILE_BYTES}"
    return DataError(what, where=where, remedy=_REMEDY)


def _bomb(what: str, where: object) -> DataError:
    what = f"image has {what}; the limit is {MAX_PIXELS} (decompression bomb?)"
    return DataError(what, where=where, remedy=_REMEDY)


def _gather(
    rows: NDArray[np.int64], side: int, one: Callable[[int], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    images = np.empty((len(rows), side, side, 3), dtype=np.uint8)
    for position, row in enumerate(rows):
        images[position] = one(int(row))
    return images


class ArraySource:
    """Images that lie decoded in one uint8 array: [n, h, w], [n, h, w, 1], [n, h, w, 3] or,
    recognised by a first channel axis and no last one, [n, 3, h, w] / [n, 1, h, w]."""

    def __init__(self, images: NDArray[np.uint8], where: object = "images") -> None:
        """Raises DataError for another type or shape; `where` names the array in errors."""
        if images.dtype != np.uint8:
            raise DataError(
                f"images are {images.dtype}, not uint8", where=where, remedy="store pixels 0..255"
            )
        if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
            images = images.transpose(0, 2, 3, 1)
        if images.ndim == 4 and images.shape[3] == 1:
            images = images[..., 0]
        grey, colour = images.ndim == 3, images.ndim == 4 and images.shape[3] == 3
        if not (grey or colour) or 0 in images.shape[1:]:
            raise DataError(
                f"images have shape {list(images.shape)}",
                where=where,
                remedy="expected [n, height, width] or [n, height, width, 3]",
            )
        if images.shape[1] * images.shape[2] > MAX_PIXELS:
            raise _bomb(f"{images.shape[2]} x {images.shape[1]} pixels", where)
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def load(self, rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
        """Images `rows` as uint8 [len(rows), side, side, 3]."""
        if self._images.shape[1:3] == (side, side):
            images = self._images[rows]
            if images.ndim == 3:
                images = np.repeat(images[..., None], 3, axis=3)
            return np.ascontiguousarray(images)
        return _gather(rows, side, lambda row: self._one(row, side))

    def file(self, row: int) -> bytes:
        """Image `row` as a PNG."""
        content = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(self._images[row])).save(content, "PNG")
        return content.getvalue()

    def digest(self) -> str:
        """SHA-256 of shape and pixels."""
        state = hashlib.sha256(repr(self._images.shape).encode())
        for row in self._images:  # the whole array need not be contiguous, and may be large
            state.update(np.ascontiguousarray(row).data)
        return state.hexdigest()

    def _one(self, row: int, side: int) -> NDArray[np.uint8]:
        image = Image.fromarray(np.ascontiguousarray(self._images[row]))
        return np.asarray(square(image, side).convert("RGB"))


class EncodedSource:
    """Image files (JPEG, PNG ...) back to back in memory: image i is blob[offsets[i]:offsets[i+1]].

    `where` names the set in errors, `names` its images where they have names.
    """

    def __init__(
        self,
        blob: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        where: object = "images",
        names: Sequence[str] = (),
    ) -> None:
        """Raises DataError unless offsets are integers that rise within the blob."""
        remedy = "the file is damaged; make it again"
        if blob.dtype != np.uint8 or blob.ndim != 1:
            raise DataError("blob is not a row of bytes (uint8)", where=where, remedy=remedy)
        if offsets.ndim != 1 or len(offsets) < 1 or not np.issubdtype(offsets.dtype, np.integer):
            raise DataError("offsets are not a row of integers", where=where, remedy=remedy)
        if int(offsets.min()) < 0 or int(offsets.max()) > len(blob):
            raise DataError("offsets point outside the blob", where=where, remedy=remedy)
        offsets = offsets.astype(np.int64)
        if np.any(np.diff(offsets) < 0):
            raise DataError("offsets do not rise", where=where, remedy=remedy)
        self._blob, self._offsets = blob, offsets
        self._where, self._names = where, names

    @classmethod
    def from_list(
        cls, images: Sequence[bytes], where: object = "images", names: Sequence[str] = ()
    ) -> EncodedSource:
        """The same from one bytes object an image."""
        offsets = np.zeros(len(images) + 1, dtype=np.int64)
        np.cumsum([len(image) for image in images], out=offsets[1:])
        return cls(np.frombuffer(b"".join(images), dtype=np.uint8), offsets, where, names)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def load(self, rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
        """Images `rows` as uint8 [len(rows), side, side, 3]; DataError names a damaged one."""
        return _gather(rows, side, lambda row: self._one(row, side))

    def file(self, row: int) -> bytes:
        """The file of image `row`, as it was given."""
        return self._blob[self._offsets[row] : self._offsets[row + 1]].tobytes()

    def digest(self) -> str:
        """SHA-256 of offsets and encoded images."""
        state = hashlib.sha256(np.ascontiguousarray(self._offsets).data)
        state.update(np.ascontiguousarray(self._blob).data)
        return state.hexdigest()

    def _one(self, row: int, side: int) -> NDArray[np.uint8]:
        name = self._names[row] if self._names else row
        return decode_image(self.file(row), side, f"{self._where}: image {name}")


class FileSource:
    """One file an image: `paths` relative to `root`, read when asked for."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root, self._paths = root, paths

    def __len__(self) -> int:
        return len(self._paths)

    def load(self, rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
        """Images `rows` as uint8 [len(rows), side, side, 3]; DataError names a damaged one."""
        return _gather(rows, side, lambda row: self._one(row, side))

    def file(self, row: int) -> bytes:
        """The file of image `row`, as it lies there."""
        return read_file(self._root / self._paths[row], MAX_FILE_BYTES)

    def digest(self) -> str:
        """SHA-256 of every path and the size of its file; nothing is read."""
        state = hashlib.sha256()
        for path in self._paths:
            try:
                size = os.stat(self._root / path).st_size
            except OSError:  # an image that nobody was dealt may be missing
                size = -1
            state.update(os.fsencode(path) + f"\0{size}\0".encode())
        return state.hexdigest()

    def _one(self, row: int, side: int) -> NDArray[np.uint8]:
        return decode_image(self.file(row), side, self._root / self._paths[row])


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; DataError names it otherwise."""
    try:
        # O_NONBLOCK: a pipe under an image's name must not hold the reader for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DataError("not a regular file", where=path, remedy="remove it")
            data = stream.read(limit + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot be read ({reason})", where=path, remedy="check the file") from None
    if len(data) > limit:
        raise DataError(
            f"file of {max(status.st_size, len(data))} bytes; the limit is {limit}",
            where=path,
            remedy="replace or remove it",
        )
    return data
