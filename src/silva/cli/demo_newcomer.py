"""The newcomer of `silva demo`: a client with pictures that no client of its forest has."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

NAME = "new-1"
STYLE = "inverted"
TRAIN, TEST = 20, 60
"""Pictures that it joins with, and further ones that its answers are measured on."""


@dataclass(frozen=True)
class Newcomer:
    """What it brings: files for the product's own commands, and pictures to ask about."""

    data: Path
    """Its TRAIN pictures and their labels, npz."""
    pictures: tuple[bytes, ...]
    """Its TEST pictures as PNG files."""
    classes: tuple[str, ...]
    """What is on each of them."""


def make_newcomer(forest: Path, data: str, side: int, file: Path, seed: int) -> Newcomer:
    """Draw a newcomer from what the partition of `forest` left of its data set.

    side: of the pictures, in pixels. file: for its data, npz. Its camera inverts.
    """
    import numpy as np

    from silva.data.nouns import ImageDataset
    from silva.data.open import open_dataset
    from silva.data.partition import load_partition
    from silva.data.styles import apply_style

    dataset = open_dataset(data)
    assert isinstance(dataset, ImageDataset)
    clients = load_partition(forest / "report", dataset).clients
    owned = np.concatenate([rows for c in clients for rows in (c.train, c.test)])
    free = np.setdiff1d(np.arange(len(dataset)), owned)
    rows = np.random.default_rng(seed).choice(free, TRAIN + TEST, replace=False)
    images = apply_style(dataset.source.load(rows, side), STYLE, rows)
    words = np.array(dataset.class_names)[dataset.labels[rows]]
    np.savez(file, images=images[:TRAIN], label=words[:TRAIN])
    pictures = tuple(_png(image) for image in images[TRAIN:])
    return Newcomer(file, pictures, tuple(words[TRAIN:].tolist()))


def _png(pixels: object) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")  # type: ignore[arg-type]
    return file.getvalue()
