from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from silva.errors import ConfigError
from silva.serving.bench.lengths import MOST_TOKENS, Lengths, parse_lengths


def draws(text: str, count: int = 50_000, seed: int = 1) -> np.ndarray:
    return parse_lengths(text, "work.input").draw(np.random.default_rng(seed), count)


def test_fixed() -> None:
    assert set(draws("512").tolist()) == set(draws("fixed(512)").tolist()) == {512}


def test_uniform_has_both_ends_and_nothing_beyond() -> None:
    found = draws("uniform(3, 12)")
    assert (found.min(), found.max()) == (3, 12)
    counts = np.bincount(found)[3:]
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(("mean", "cv"), [(500.0, 0.5), (200.0, 1.5), (40.0, 0.0)])
def test_lognormal_has_the_mean_and_spread_asked_for(mean: float, cv: float) -> None:
    found = draws(f"lognormal({mean},{cv})")
    assert found.mean() == pytest.approx(mean, rel=0.03)
    assert stats.variation(found) == pytest.approx(cv, rel=0.05, abs=1e-9)


def test_lognormal_is_cut_at_both_ends() -> None:
    found = draws("lognormal(4, 3, 20)")
    assert (found.min(), found.max()) == (1, 20)


def test_a_stream_begins_as_one_draw_does() -> None:
    lengths = parse_lengths("lognormal(100,1)", "x")
    stream = lengths.stream(np.random.default_rng(3))
    assert list(islice(stream, 2000))[:50] == draws("lognormal(100,1)", 50, 3).tolist()


@pytest.mark.parametrize(
    "text",
    ["", "0", "-3", "1.5", "nan", "inf", "1e99", "word", "uniform(3)", "uniform(9,3)",
     "uniform(0,3)", "uniform(1,2,3)", "lognormal(5)", "lognormal(0.5,1)", "lognormal(5,-1)",
     "lognormal(5,nan)", "lognormal(5,101)", "lognormal(5,1,0)", "lognormal(5,1,9.5)", "fixed()",
     "gamma(1,2)", "fixed(1", f"fixed({MOST_TOKENS + 1})", "trace"],
)  # fmt: skip
def test_what_is_no_distribution_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"work\.input.*no distribution"):
        parse_lengths(text, "work.input")


SPEC = st.from_regex(r"\s*(fixed|uniform|lognormal)?\(?[0-9.,e+-]{1,12}\)?", fullmatch=True)


@given(st.text(max_size=30) | SPEC)
def test_any_text_is_a_distribution_of_positive_lengths_or_an_error(text: str) -> None:
    try:
        lengths = parse_lengths(text, "work.output")
    except ConfigError as error:
        assert "\n" not in str(error) or "\n" in repr(text)
        return
    assert isinstance(lengths, Lengths)
    found = lengths.draw(np.random.default_rng(0), 20)
    assert found.dtype == np.int64 and ((found >= 1) & (found <= MOST_TOKENS)).all()
