"""The trace is that of the load generator, and its rate a moderate one where none is named."""

from __future__ import annotations

import pytest
from reality_cases import profile

from silva.errors import ConfigError
from silva.reality.trace import TraceConfig, asked, bench_config, check_lengths, rate_for
from silva.serving.bench.prompts import Prompts
from silva.serving.bench.schedule import schedule

TRACE = TraceConfig(duration_s=20.0, input="uniform(8,16)", output="4", seed=3)


def test_both_sides_are_asked_the_same() -> None:
    bench = bench_config(TRACE, 2.0, "http://127.0.0.1:1", 300)
    planned, made = list(schedule(bench, [], 1)), asked(bench)
    assert [p.at_s for p in planned] == [a.at_s for a in made]
    prompts = Prompts(bench.work, bench.seed)
    assert [tuple(prompts.tokens(p)) for p in planned] == [a.prompt for a in made]
    assert {a.output for a in made} == {4}
    assert max(max(a.prompt) for a in made) < 300


def test_a_rate_that_is_named_is_taken() -> None:
    assert rate_for(TraceConfig(rate=3.5), profile(), 1) == 3.5


def test_a_rate_that_is_not_named_keeps_the_prefill_peer_less_than_half_busy() -> None:
    rate = rate_for(TRACE, profile(), 1)
    assert 0.2 < rate * 0.012 < 0.5
    assert rate_for(TRACE, profile(), 2) >= rate


def test_lengths_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ConfigError, match="many"):
        asked(bench_config(TraceConfig(input="many"), 1.0, "http://127.0.0.1:1", 300))


def test_a_request_that_the_server_would_cut_is_refused() -> None:
    check_lengths(TRACE, 2.0, 20)
    with pytest.raises(ConfigError, match="a request of 20 tokens, and the server holds 19"):
        check_lengths(TRACE, 2.0, 19)
