"""Styles: fixed transformations that set groups of clients apart on any set of images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from silva.errors import PartitionError

Images = NDArray[np.uint8]

NOISE = 48.0
"""Standard deviation of the noisy style, in grey levels of 255."""

PLAIN = "plain"
"""How a partition's spec writes the style "" (none)."""


def _inverted(images: Images) -> Images:
    return np.bitwise_not(images)


def _edges(images: Images) -> Images:
    """Sobel magnitude of every colour; a step from black to white gives 255."""
    values = images.astype(np.float32)
    slopes = []
    # Two one-dimensional filters: ndimage.sobel would also smooth over colours and the batch.
    for along, across in ((1, 2), (2, 1)):
        slope = ndimage.correlate1d(values, [-1, 0, 1], axis=along, mode="nearest")
        slopes.append(ndimage.correlate1d(slope, [1, 2, 1], axis=across, mode="nearest"))
    return np.minimum(np.hypot(*slopes) / 4, 255).astype(np.uint8)


def _rotated(images: Images) -> Images:
    return np.ascontiguousarray(np.rot90(images, axes=(1, 2)))


def _flipped(images: Images) -> Images:
    """Upside down: left to right would hardly change most photographs."""
    return np.ascontiguousarray(images[:, ::-1])


def _blurred(images: Images) -> Images:
    width = images.shape[1] / 24
    blurred: Images = ndimage.gaussian_filter(images, sigma=(0, width, width, 0), mode="nearest")
    return blurred


def _posterised(images: Images) -> Images:
    """Each colour is off or on."""
    return np.where(images < 128, 0, 255).astype(np.uint8)


def _noisy(images: Images, rows: NDArray[np.int64]) -> Images:
    """Gaussian noise that belongs to the image: the seed is the image's row."""
    noisy = np.empty_like(images)
    for i, row in enumerate(rows):
        noise = np.random.Generator(np.random.PCG64(int(row))).standard_normal(
            images.shape[1:], dtype=np.float32
        )
        noisy[i] = np.clip(np.rint(images[i] + NOISE * noise), 0, 255)
    return noisy


_STYLES: dict[str, Callable[[Images], Images]] = {
    "inverted": _inverted,
    "edges": _edges,
    "rotated": _rotated,
    "flipped": _flipped,
    "blurred": _blurred,
    "posterised": _posterised,
}

STYLES: tuple[str, ...] = (
    "", "inverted", "edges", "rotated", "noisy", "flipped", "blurred", "posterised"
)  # fmt: skip
"""Every style, in the order in which planted groups take them."""


def check_style(style: str) -> str:
    """Give `style` back ("plain" becomes ""), or raise PartitionError with the known styles."""
    style = "" if style == PLAIN else style
    if style not in STYLES:
        known = ", ".join(name or PLAIN for name in STYLES)
        raise PartitionError(f"no style is called {style[:80]!r}", remedy=f"known are {known}")
    return style


def apply_style(images: Images, style: str, rows: NDArray[np.int64]) -> Images:
    """Transform square images, uint8 [n, side, side, 3], into the same shape and type.

    rows: int64 [n], the images' rows in their data set (not negative); the noise of an image
    depends on its row alone, so it is the same whenever, and beside whatever, it is loaded.
    Raises PartitionError for an unknown style.
    """
    style = check_style(style)
    if not style:
        return images
    return _noisy(images, rows) if style == "noisy" else _STYLES[style](images)
