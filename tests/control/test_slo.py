"""Budgets hold the target and are the largest that do; the trade is shown as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.control.slo import LinearStepTime, largest_batch, largest_chunk, trade

MODELS = st.builds(
    LinearStepTime,
    st.floats(0, 0.05),
    st.floats(0, 0.01),
    st.floats(0, 1e-5),
    st.floats(0, 1e-3),
)


@given(MODELS, st.floats(0.001, 0.1), st.integers(0, 4000), st.integers(0, 300))
def test_the_batch_is_the_largest_within_the_target(
    model: LinearStepTime, target_s: float, context: int, most: int
) -> None:
    batch = largest_batch(model, target_s, context, most)
    fits = [n for n in range(1, most + 1) if model.seconds(n, n * context, 0) <= target_s]
    assert batch == max(fits, default=0)


@given(MODELS, st.floats(0.001, 0.1), st.integers(0, 64), st.integers(0, 600))
def test_the_chunk_is_the_largest_within_the_target(
    model: LinearStepTime, target_s: float, decoding: int, most: int
) -> None:
    chunk = largest_chunk(model, target_s, decoding, decoding * 500, most)
    fits = [n for n in range(1, most + 1) if model.seconds(decoding, decoding * 500, n) <= target_s]
    assert chunk == max(fits, default=0)


def test_the_trade_of_three_targets() -> None:
    model = LinearStepTime(0.010, request_s=0.0005, context_token_s=5e-7, prefill_token_s=1e-4)
    rows = trade(model, (0.05001, 0.03001, 0.01501, 0.005), 1000, most_batch=64, most_chunk=512)
    assert [row.batch for row in rows] == [40, 20, 5, 0]
    assert [row.chunk_tokens for row in rows] == [0, 0, 0, 0]
    assert rows[0].tpot_s == pytest.approx(0.050)
    assert rows[0].tokens_per_s == pytest.approx(800)
    assert rows[2].tokens_per_s == pytest.approx(5 / 0.015)
    assert (rows[3].tokens_per_s, rows[3].tpot_s) == (0.0, pytest.approx(0.011))


def test_a_small_engine_is_limited_by_itself() -> None:
    model = LinearStepTime(0.010, prefill_token_s=1e-4)
    (row,) = trade(model, (0.050,), 0, most_batch=8, most_chunk=256)
    assert (row.batch, row.chunk_tokens) == (8, 256)
