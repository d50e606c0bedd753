from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from silva.data.nouns import ImageDataset
from silva.data.sources import ArraySource

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 1, 1, 2, 2])
SPLIT = np.array([0, 1] * 3, dtype=np.uint8)
PLAIN = ImageDataset(
    ArraySource(IMAGES),
    LABELS,
    ("ant", "bee", "cow"),
    SPLIT,
    columns={"domain": LABELS % 2},
    names={"domain": ("photo", "sketch")},
)


def test_equal_data_sets_have_equal_digests() -> None:
    again = replace(PLAIN, source=ArraySource(IMAGES.copy()), labels=LABELS.copy())
    assert again.digest() == PLAIN.digest() and len(PLAIN.digest()) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"source": ArraySource(IMAGES[[1, 0, 2, 3, 4, 5]])},
        {"labels": LABELS[::-1]},
        {"class_names": ("ant", "cow", "bee")},
        {"split": 1 - SPLIT},
        {"split": None},
        {"columns": {"domain": 1 - LABELS % 2}},
        {"columns": {"style": LABELS % 2}},
        {"names": {"domain": ("sketch", "photo")}},
    ],
)
def test_whatever_is_another_shows_in_the_digest(change: dict[str, object]) -> None:
    assert replace(PLAIN, **change).digest() != PLAIN.digest()
