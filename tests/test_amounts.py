"""Sizes and times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.amounts import parse_bytes, parse_seconds
from silva.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1GiB", 1 << 30),
        ("1g", 1 << 30),
        ("1.5 MiB", 3 << 19),
        ("2GB", 2_000_000_000),
        ("10kb", 10_000),
        ("512", 512),
        ("7b", 7),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, amount: int) -> None:
    assert parse_bytes(text, "--x") == amount


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("2s", 2), ("2", 2), ("1.5 min", 90), ("1h", 3600)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--x") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["1" * 400, "1" * 305 + "TiB", "9" * 307 + "h", "0" * 400 + "x"])
def test_a_number_that_is_too_large_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--x: '\d{40}' is no size; write 512MiB or 2GB"):
        parse_bytes(text, "--x")
    with pytest.raises(ConfigError, match=r"--x: '\d{40}' is no time; write 50ms or 2s"):
        parse_seconds(text, "--x")


@given(st.text(max_size=12))
def test_anything_else_names_the_flag(text: str) -> None:
    for parse in (parse_bytes, parse_seconds):
        try:
            assert parse(text, "--cache-ram") >= 0
        except ConfigError as error:
            assert "--cache-ram" in str(error)
