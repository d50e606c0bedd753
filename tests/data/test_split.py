from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.data.nouns import TEST, TRAIN, ImageDataset
from silva.data.sources import ArraySource
from silva.data.split import as_share, split_codes, split_rows
from silva.errors import DataError


def dataset(labels: list[int]) -> ImageDataset:
    images = np.zeros((len(labels), 2, 2), np.uint8)
    names = tuple(str(i) for i in range(10))
    return ImageDataset(ArraySource(images), np.array(labels, dtype=np.int64), names)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_every_class_of_two_or_more_is_on_both_sides(
    labels: list[int], share: float, seed: int
) -> None:
    data = dataset(labels)
    found = split_rows(data, share, seed).split
    assert found is not None
    assert np.array_equal(found, split_rows(data, share, seed).split)
    for label in set(labels):
        of_class = found[data.labels == label]
        if len(of_class) > 1:
            assert set(of_class.tolist()) == {TRAIN, TEST}
            assert abs(of_class.sum() - share * len(of_class)) <= 1


def test_seeds_differ() -> None:
    data = dataset([0] * 100)
    assert not np.array_equal(split_rows(data, 0.5, 0).split, split_rows(data, 0.5, 1).split)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_shares_lie_between_0_and_1(share: float) -> None:
    with pytest.raises(DataError):
        split_rows(dataset([0, 1]), share, 0)
    with pytest.raises(DataError):
        as_share(str(share))


def test_share_or_column() -> None:
    assert as_share("0.25") == 0.25
    assert as_share("fold") is None
    assert as_share("") is None


def test_words() -> None:
    values = np.array([0, 1, 2, 0])
    assert split_codes(values, ("Train", "val", "test"), "x").tolist() == [0, 0, 1, 0]  # type: ignore[union-attr]
    assert split_codes(values, ("training", "valid", "dev"), "x").tolist() == [0, 1, 1, 0]  # type: ignore[union-attr]
    assert split_codes(values[:1], ("train", "test"), "x") is None
    with pytest.raises(DataError, match="'fold1' is none of"):
        split_codes(values, ("train", "fold1", "test"), "x")
