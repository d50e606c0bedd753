"""Step times of a profile: what was measured at its points, and no less for more work between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.errors import ConfigError
from silva.supernode.profile import DecodeSteps, PrefillSteps

PREFILL = ((16, 0, 20.0, 30.0), (64, 0, 60.0, 75.0), (64, 64, 64.096, 80.0))
DECODE = ((1, 100, 10.0, 12.0), (1, 500, 10.8, 12.0), (4, 100, 13.0, 26.0), (4, 500, 16.2, 32.4))


def test_points_are_met() -> None:
    prefill, decode = PrefillSteps(PREFILL, 0.0), DecodeSteps(DECODE)
    assert prefill.seconds([(16, 0)]) == pytest.approx(0.020)
    assert prefill.seconds([(64, 64)]) == pytest.approx(0.064096)
    assert prefill.beside(16) == pytest.approx(1.5)
    assert decode.seconds(1, 500) == pytest.approx(0.0108)
    assert decode.seconds(4, 400) == pytest.approx(0.013)
    assert decode.beside(4) == pytest.approx(2.0)


def test_beyond_the_points_it_goes_on() -> None:
    prefill, decode = PrefillSteps(PREFILL, 0.0), DecodeSteps(DECODE)
    assert prefill.seconds([(112, 0)]) == pytest.approx(0.100)
    assert prefill.seconds([(1, 0)]) == pytest.approx(0.020)
    assert decode.seconds(8, 800) > decode.seconds(4, 800)
    assert prefill.beside(1000) == pytest.approx(1.25)


def test_chunks_of_several_prompts_share_a_step() -> None:
    prefill = PrefillSteps(PREFILL, 0.002)
    both = prefill.seconds([(32, 64), (32, 0)])
    assert both == pytest.approx(0.060 + 32 * 64 * prefill.pair_s)
    assert prefill.seconds([(64, 0)], samples=False) == pytest.approx(0.058)
    assert prefill.seconds([]) == 0.0


@given(st.integers(0, 40), st.integers(0, 4000), st.integers(0, 10), st.integers(0, 1000))
def test_more_work_never_takes_less(batch: int, context: int, more: int, longer: int) -> None:
    decode = DecodeSteps((*DECODE, (8, 100, 12.0, 12.0), (8, 500, 12.5, 12.0)))
    assert decode.seconds(batch, context) <= decode.seconds(batch, context + longer)
    if batch:
        # the slope over tokens is each batch's own; without tokens it is the batch alone
        assert decode.seconds(batch, 0) <= decode.seconds(batch + more, 0) + 1e-12


def test_a_profile_without_a_first_chunk_is_refused() -> None:
    with pytest.raises(ConfigError, match="before"):
        PrefillSteps(((64, 64, 70.0, 80.0),), 0.0)
