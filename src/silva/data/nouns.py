"""What the readers produce and the partitions deal out: rows of data, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

TRAIN, TEST = 0, 1
"""Values of `Dataset.split`."""


class Source(Protocol):
    """What lies in the rows of a data set."""

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """SHA-256 that tells rows and their order from others."""
        ...


class ImageSource(Source, Protocol):
    """Images by number, decoded when asked for: an array, a blob of JPEGs or a tree of files."""

    def load(self, rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
        """Decode images `rows` as RGB, resized to `side` x `side`: uint8 [len(rows), side, side, 3].

        Raises DataError naming the image that cannot be decoded.
        """
        ...

    def file(self, row: int) -> bytes:
        """Image `row` as a file that gives the same pixels wherever it is decoded."""
        ...

    def digest(self) -> str:
        """SHA-256 that tells images and their order from others: of the content where it lies in
        memory, of paths and sizes where it is files."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Labelled rows; every array has one entry a row.

    labels   int64, index into class_names
    split    uint8, TRAIN or TEST; None when the format does not say (see `split.split_rows`)
    columns  further integer columns by name, e.g. "domain", "coarse", "client"
    names    what a column's values mean, by column name: names["domain"][3] == "sketch"
    origin   what opens exactly this data set again where the name it was asked for may come to mean
             another, such as "hub:owner/name@commit"; "" elsewhere
    """

    source: Source
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    split: NDArray[np.uint8] | None = None
    columns: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    title: str = ""
    origin: str = ""

    unit: ClassVar[str] = "rows"
    """What rows are, for people."""
    styled: ClassVar[bool] = False
    """Whether rows can pass through a style (`silva.data.styles`)."""

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """SHA-256 of rows, labels, split and columns, row by row, and of what they mean."""
        said = [self.class_names, sorted(self.names.items()), sorted(self.columns)]
        state = hashlib.sha256(json.dumps([self.source.digest(), *said]).encode())
        arrays: list[NDArray[np.generic]] = [self.columns[name] for name in sorted(self.columns)]
        arrays += [self.labels] if self.split is None else [self.labels, self.split]
        for array in arrays:
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def check(
        self, clients: Sequence[ClientRows], after: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        """Read every row of the clients once, where that could fail; DataError names the first.

        `after` hears how many of how many have been read.
        """


@dataclass(frozen=True)
class ImageDataset(Dataset):
    """Labelled images."""

    source: ImageSource

    unit: ClassVar[str] = "images"
    styled: ClassVar[bool] = True

    def check(
        self, clients: Sequence[ClientRows], after: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        from silva.data.readable import check_images  # which knows the nouns

        check_images(self.source, clients, after)


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
    """Who owns which row. `unseen` names the clients that take no part in training."""

    spec: str
    clients: tuple[ClientRows, ...]
    unseen: frozenset[str] = frozenset()

    @property
    def seen(self) -> tuple[ClientRows, ...]:
        return tuple(c for c in self.clients if c.name not in self.unseen)

    @property
    def held_out(self) -> tuple[ClientRows, ...]:
        return tuple(c for c in self.clients if c.name in self.unseen)
