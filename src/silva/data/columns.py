"""From the columns of a file to an `ImageDataset`: which one is the label, which one the split.

Every reader hands its columns to `assemble`, so `--labels` and `--split` mean the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silva.data.nouns import ImageDataset, ImageSource
from silva.data.split import as_share, split_codes, split_rows
from silva.errors import DataError

LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "fine_labels", "target", "y")
"""Taken for the label, first match, when `--labels` names none."""

MAX_CLASSES = 100_000
SHARE_SEED = 0
"""Seed of the test share that `--split 0.2` draws: runs of any seed test on the same images."""


@dataclass(frozen=True)
class Column:
    """Integers [n], one an image; `names[value]` says what a value means, where it is known."""

    values: NDArray[np.int64]
    names: tuple[str, ...] = ()


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names in order; names that are all numbers by their value, so "10" follows "9"."""
    distinct = set(names)
    if all(name.isascii() and name.isdigit() and len(name) < 16 for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def name_column(values: Sequence[str]) -> Column:
    """A column of words as integers, numbered in the order of `sorted_names`."""
    names = sorted_names(values)
    index = {name: number for number, name in enumerate(names)}
    return Column(np.fromiter((index[v] for v in values), np.int64, len(values)), names)


def array_column(array: NDArray[np.generic], names: Sequence[str], where: object) -> Column:
    """A one-dimensional array of integers, booleans or strings as a column.

    Raises DataError for another type, and for integers that int64 does not hold.
    """
    if array.dtype.kind == "U":
        return name_column([str(value) for value in array])
    if array.dtype.kind not in "iub":
        raise DataError(
            f"values are {array.dtype}, neither integers nor words",
            where=where,
            remedy="store integers from 0, or names",
        )
    if array.dtype.kind == "u" and array.size and int(array.max()) >= 2**63:
        raise DataError("values exceed 64 bits", where=where, remedy="number them from 0")
    return Column(array.astype(np.int64), tuple(names))


def assemble(
    source: ImageSource,
    columns: Mapping[str, Column],
    *,
    where: object,
    title: str,
    labels: str = "",
    split: str = "",
) -> ImageDataset:
    """The data set of `source` with one column as labels, one as split, the others as they are.

    labels  name of the label column; "" takes the first of LABEL_COLUMNS
    split   name of the split column, or a share of test images such as "0.2"; "" takes "split"

    Raises DataError when a column is missing, has another length than the images, or holds
    anything but classes; and for a set without images.
    """
    if len(source) == 0:
        raise DataError("no images in it", where=where, remedy="check the path")
    for name, column in columns.items():
        if column.values.shape != (len(source),):
            raise DataError(
                f"{len(source)} images but column {name!r} has shape {list(column.values.shape)}",
                where=where,
                remedy="every column needs one entry an image",
            )
    rest = dict(columns)
    label = rest.pop(_label_name(rest, labels, where))
    class_names = _class_names(label, where)
    share = as_share(split)
    codes = _split(rest, "" if share is not None else split, where)
    dataset = ImageDataset(
        source=source,
        labels=label.values,
        class_names=class_names,
        split=codes,
        columns={name: column.values for name, column in rest.items()},
        names={name: column.names for name, column in rest.items() if column.names},
        title=title,
    )
    return dataset if share is None else split_rows(dataset, share, SHARE_SEED)


def _label_name(columns: Mapping[str, Column], labels: str, where: object) -> str:
    for name in (labels,) if labels else LABEL_COLUMNS:
        if name in columns:
            return name
    found = ", ".join(sorted(columns)) or "none"
    what = f"no column {labels!r}" if labels else "no label column"
    raise DataError(
        f"{what} (columns: {found})", where=where, remedy="name the label column with --labels"
    )


def _class_names(column: Column, where: object) -> tuple[str, ...]:
    low, high = int(column.values.min()), int(column.values.max())
    if low < 0:
        raise DataError(f"label {low} is negative", where=where, remedy="number classes from 0")
    limit = len(column.names) or MAX_CLASSES
    if high >= limit:
        raise DataError(
            f"label {high} but only {limit} classes", where=where, remedy="number classes from 0"
        )
    return column.names or tuple(str(number) for number in range(high + 1))


def _split(columns: dict[str, Column], split: str, where: object) -> NDArray[np.uint8] | None:
    """The split of the column named `split` (default "split"), which leaves `columns`."""
    column = columns.pop(split or "split", None)
    if column is None:
        if not split:
            return None
        found = ", ".join(sorted(columns)) or "none"
        raise DataError(
            f"no column {split!r} to split by (columns: {found})",
            where=where,
            remedy="name another with --split, or a share such as --split 0.2",
        )
    if not column.names:
        column = Column(column.values, ("train", "test"))
    if int(column.values.min()) < 0 or int(column.values.max()) >= len(column.names):
        raise DataError(
            "split values are not 0 (train) and 1 (test)",
            where=where,
            remedy="store 0 and 1, or choose another column with --split",
        )
    return split_codes(column.values, column.names, where)
