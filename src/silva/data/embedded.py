"""The embedded data set: 5,000 pictures of Fashion-MNIST, so that nothing need be downloaded.

`recipes/embedded_fashion.py` made the file; the card beside it gives origin and licence.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from silva.data.nouns import ImageDataset
from silva.data.sources import read_file
from silva.data.tables import read_npz
from silva.errors import DataError

NAMES = ("embedded", "fashion-groups")
"""Known names that `open_dataset` answers with this set."""

FILE = Path(__file__).parent.parent / "assets" / "fashion" / "fashion.npz"
DIGEST = "ec8f0d4226833dcdcc43325f1cafc5d553dc89e4dc1da60387fa9545d0946774"
_MAX_BYTES = 6 * 2**20


def read_embedded(*, split: str = "", labels: str = "") -> ImageDataset:
    """400 train and 100 test images of each of 10 classes, grey, 28 x 28.

    Column "coarse" groups the classes into families (tops, footwear, other). Raises DataError when
    the installed file is not the one that was shipped.
    """
    if hashlib.sha256(read_file(FILE, _MAX_BYTES)).hexdigest() != DIGEST:
        raise DataError("embedded data are damaged", where=FILE, remedy="install silva again")
    return replace(read_npz(FILE, split=split, labels=labels), title="Fashion-MNIST subset")
