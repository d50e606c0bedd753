"""What the readers produce and the partitions deal out: images with labels, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TRAIN, TEST = 0, 1
"""Values of `ImageDataset.split`."""


class ImageSource(Protocol):
    """Images by number, decoded when asked for: an array, a blob of JPEGs or a tree of files."""

    def __len__(self) -> int: ...

    def load(self, rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
        """Decode images `rows` as RGB, resized to `side` x `side`: uint8 [len(rows), side, side, 3].

        Raises DataError naming the image that cannot be decoded.
        """
        ...

    def digest(self) -> str:
        """SHA-256 that tells images and their order from others: of the content where it lies in
        memory, of paths and sizes where it is files."""
        ...


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images; every array has one entry an image.

    labels   int64, index into class_names
    split    uint8, TRAIN or TEST; None when the format does not say (see `split.split_rows`)
    columns  further integer columns by name, e.g. "domain", "coarse", "client"
    names    what a column's values mean, by column name: names["domain"][3] == "sketch"
    origin   what opens exactly this data set again where the name it was asked for may come to mean
             another, such as "hub:owner/name@commit"; "" elsewhere
    """

    source: ImageSource
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    split: NDArray[np.uint8] | None = None
    columns: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    title: str = ""
    origin: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """SHA-256 of images, labels, split and columns, row by row, and of what they mean."""
        said = [self.class_names, sorted(self.names.items()), sorted(self.columns)]
        state = hashlib.sha256(json.dumps([self.source.digest(), *said]).encode())
        arrays: list[NDArray[np.generic]] = [self.columns[name] for name in sorted(self.columns)]
        arrays += [self.labels] if self.split is None else [self.labels, self.split]
        for array in arrays:
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()


@dataclass(frozen=True)
class ClientRows:
    """The rows of one client: train and test never overlap.

    group is the client's true group where the partition plants one, else -1. style names the
    transformation of `silva.data.styles` that this client's images pass through ("" for none).
    """

    name: str
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    group: int = -1
    style: str = ""


@dataclass(frozen=True)
class Partition:
    """Who owns which image. `unseen` names the clients that take no part in training."""

    spec: str
    clients: tuple[ClientRows, ...]
    unseen: frozenset[str] = frozenset()

    @property
    def seen(self) -> tuple[ClientRows, ...]:
        return tuple(c for c in self.clients if c.name not in self.unseen)

    @property
    def held_out(self) -> tuple[ClientRows, ...]:
        return tuple(c for c in self.clients if c.name in self.unseen)
