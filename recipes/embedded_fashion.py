"""Makes silva's embedded data set from the four IDX files of Fashion-MNIST.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb unpacked
    python recipes/embedded_fashion.py unpacked/usr/share/datasets/fashion-mnist fashion.npz

Takes, in file order, the first TRAIN images of every class from the train file and the first TEST
from the test file: no randomness, so the arrays are always the same. Prints their digest and the
file's (which also depends on the zlib that packs it).
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from silva.data.idx import FASHION_CLASSES, read_idx

TRAIN, TEST = 400, 100
FAMILIES = ("tops", "footwear", "other")
FAMILY_OF_CLASS = (0, 2, 0, 2, 0, 1, 0, 1, 2, 1)
"""T-shirt, pullover, coat, shirt / sandal, sneaker, ankle boot / trouser, dress, bag."""


def first_of_each(labels: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Rows of the first `count` images of every class, ordered by class."""
    return np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)])


def subset(folder: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of the embedded set from the IDX files in `folder`."""
    images, labels = [], []
    for side, count in (("train", TRAIN), ("t10k", TEST)):
        pixels = read_idx(folder / f"{side}-images-idx3-ubyte.gz")
        values = read_idx(folder / f"{side}-labels-idx1-ubyte.gz")
        rows = first_of_each(values, count)
        images.append(pixels[rows])
        labels.append(values[rows])
    label = np.concatenate(labels)
    return {
        "images": np.concatenate(images),
        "label": label,
        "split": np.repeat(np.array([0, 1], np.uint8), [10 * TRAIN, 10 * TEST]),
        "class_names": np.array(FASHION_CLASSES),
        "coarse": np.array(FAMILY_OF_CLASS, np.uint8)[label],
        "coarse_names": np.array(FAMILIES),
    }


def main(folder: str, out: str) -> None:
    """Write the set to `out`, whole or not at all."""
    arrays = subset(Path(folder))
    content = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    target = Path(out)
    part = target.with_name(f"{target.name}.part.npz")
    np.savez_compressed(part, **arrays)
    os.replace(part, target)
    print(f"arrays sha256 {content.hexdigest()}")
    print(f"file   sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")
    print(f"bytes  {target.stat().st_size}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: embedded_fashion.py FOLDER_OF_IDX_FILES OUT.npz")
    main(sys.argv[1], sys.argv[2])
