from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from silva.data.dealing import deal_equally, deal_everything, draw_shared, largest_remainder
from silva.errors import PartitionError


@st.composite
def weights_and_stock(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    clients, cells = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    entry = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))
    rows = draw(
        st.lists(
            st.lists(entry, min_size=cells, max_size=cells).filter(any),
            min_size=clients,
            max_size=clients,
        )
    )
    stock = draw(st.lists(st.integers(1, 60), min_size=cells, max_size=cells))
    return np.array(rows), np.array(stock)


@given(weights_and_stock(), st.integers(0, 10_000))
def test_largest_remainder_keeps_totals_and_proportions(
    drawn: tuple[np.ndarray, np.ndarray], total: int
) -> None:
    weights, _ = drawn
    totals = np.full(len(weights), total)
    counts = largest_remainder(weights, totals)
    shares = total * weights / weights.sum(axis=1, keepdims=True)
    assert (counts.sum(axis=1) == total).all()
    assert (np.abs(counts - shares) < 1 + 1e-6).all()
    assert (counts[weights == 0] == 0).all()


@given(weights_and_stock(), st.integers(1, 30))
def test_deal_equally_is_exact_or_says_that_images_run_out(
    drawn: tuple[np.ndarray, np.ndarray], samples: int
) -> None:
    weights, stock = drawn
    enough = samples * len(weights) <= stock.sum()
    try:
        counts = deal_equally(weights, stock, samples)
    except PartitionError:
        # With every class open to every client only the total can be too small.
        assert (weights == 0).any() or not enough
        return
    assert enough
    assert (counts >= 0).all() and (counts.sum(axis=1) == samples).all()
    assert (counts.sum(axis=0) <= stock).all() and (counts[weights == 0] == 0).all()


def test_deal_equally_follows_the_weights_while_there_is_stock() -> None:
    weights = np.array([[0.5, 0.3, 0.2], [0.0, 0.25, 0.75]])
    counts = deal_equally(weights, np.array([50, 50, 50]), 20)
    assert counts.tolist() == [[10, 6, 4], [0, 5, 15]]


def test_what_a_class_lacks_comes_from_the_other_classes_by_proportion() -> None:
    counts = deal_equally(np.array([[0.5, 0.4, 0.1]]), np.array([5, 100, 100]), 25)
    assert counts.tolist() == [[5, 16, 4]]


def test_a_scarce_class_is_shared_fairly() -> None:
    counts = deal_equally(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([10, 100]), 20)
    assert counts[:, 0].tolist() == [5, 5]


@given(weights_and_stock())
def test_deal_everything_empties_every_wanted_cell(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    weights, stock = drawn
    counts = deal_everything(weights, stock)
    assert (counts.sum(axis=0) == np.where(weights.any(axis=0), stock, 0)).all()


def test_shared_draw_keeps_proportions_and_never_repeats_for_one_client() -> None:
    pools = [np.arange(0, 40), np.arange(40, 60), np.zeros(0, dtype=np.int64)]
    counts = np.array([[30, 10, 0], [0, 50, 50], [0, 0, 9]])
    first, second, third = draw_shared(counts, pools, 20, np.random.default_rng(0))
    assert (first < 40).sum() == 15 and len(np.unique(first)) == len(first) == 20
    assert second.tolist() == list(range(40, 60))
    assert len(third) == 0
