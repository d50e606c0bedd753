"""Which images train and which test: by the words people use for it, or by a seeded share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from silva.data.nouns import TEST, TRAIN, Dataset
from silva.errors import DataError

TRAIN_WORDS = frozenset(("train", "training"))
VALIDATION_WORDS = frozenset(("val", "valid", "validation", "dev", "crossval"))
TEST_WORDS = frozenset(("test", "testing", "t10k"))
SPLIT_WORDS = TRAIN_WORDS | VALIDATION_WORDS | TEST_WORDS

Rows = TypeVar("Rows", bound=Dataset)


def split_codes(
    values: NDArray[np.int64], words: Sequence[str], where: object
) -> NDArray[np.uint8] | None:
    """TRAIN or TEST for every entry of `values` (indices into `words`); None with one side only.

    Validation images test where nothing else does, and train where a test set exists: what is
    reported comes from the test set alone. Raises DataError for a word that is none of these.
    """
    lowered = [word.strip().lower() for word in words]
    used = {lowered[value] for value in np.unique(values)}
    if strange := sorted(used - SPLIT_WORDS):
        raise DataError(
            f"split {strange[0]!r} is none of train, validation, test",
            where=where,
            remedy="rename it or choose another column with --split",
        )
    testing = TEST_WORDS if used & TEST_WORDS else VALIDATION_WORDS
    table = np.array([TEST if word in testing else TRAIN for word in lowered], dtype=np.uint8)
    codes = table[values]
    return None if codes.min() == codes.max() else codes


def as_share(split: str) -> float | None:
    """`split` as a share of test images, None when it is no number; DataError outside (0, 1)."""
    try:
        share = float(split)
    except ValueError:
        return None
    if not 0.0 < share < 1.0:
        raise DataError(
            f"split {split!r} is no share between 0 and 1", remedy="try --split 0.2 (20 % test)"
        )
    return share


def split_rows(dataset: Rows, share: float, seed: int) -> Rows:
    """`dataset` with `split` drawn anew: in every class, a random `share` of its rows tests.

    The count in a class is rounded to the nearest integer, and a class of two or more rows keeps
    at least one on each side. Equal seeds give equal splits; a split the set came with is ignored.
    """
    if not 0.0 < share < 1.0:
        raise DataError(f"test share {share} is not between 0 and 1", remedy="try 0.2")
    rng = np.random.default_rng(seed)
    split = np.full(len(dataset), TRAIN, dtype=np.uint8)
    for label in np.unique(dataset.labels):
        rows = rng.permutation(np.flatnonzero(dataset.labels == label))
        count = int(share * len(rows) + 0.5)
        if len(rows) > 1:
            count = min(max(count, 1), len(rows) - 1)
        split[rows[:count]] = TEST
    return replace(dataset, split=split)
