from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.config import build, overlay
from silva.errors import ConfigError
from silva.serving.bench.config import BenchConfig, settled
from silva.serving.bench.nouns import Planned
from silva.serving.bench.schedule import schedule, warmup
from silva.serving.bench.trace import TraceRow

ROWS = [TraceRow(float(n), 100 + n, 10 + n, (n, n + 1)) for n in range(6)]


def config(**flags: Any) -> BenchConfig:
    """Settled settings; a double underscore stands for the dot."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return settled(build(BenchConfig, overlay({}, named), "test"))


def planned(keys: int = 1, rows: list[TraceRow] | None = None, **flags: Any) -> list[Planned]:
    return list(schedule(config(**flags), rows or [], keys))


def traced(**flags: Any) -> list[Planned]:
    return planned(rows=ROWS, work__trace="t", **flags)


def test_a_schedule_is_a_function_of_settings_and_seed() -> None:
    flags = {"load__rate": 5.0, "load__requests": 40, "work__input": "lognormal(90,1)"}
    assert planned(**flags) == planned(**flags)
    assert planned(**flags) != planned(**flags, seed=1)
    assert [p.index for p in planned(**flags)] == list(range(40))
    assert len(planned()) == 100


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from(["poisson", "bursty", "closed"]))
def test_a_longer_schedule_begins_as_a_shorter_one(count: int, more: int, kind: str) -> None:
    flags = {"load__arrival": kind, "work__output": "uniform(2,9)", "work__prefix_tokens": 3}
    short = planned(2, load__requests=count, **flags)
    assert planned(2, load__requests=count + more, **flags)[:count] == short


FIELDS: list[tuple[str, Any, set[str]]] = [
    ("load__rate", 9.0, {"at_s"}),
    ("work__input", "uniform(1,99)", {"input_tokens"}),
    ("work__output", "uniform(1,99)", {"output_tokens"}),
    ("work__prefix_tokens", 7, {"prefix"}),
]


@pytest.mark.parametrize(("name", "value", "changed"), FIELDS)
def test_one_setting_changes_one_field(name: str, value: Any, changed: set[str]) -> None:
    for one, other in zip(planned(3), planned(3, **{name: value}), strict=True):
        assert {f for f in vars(one) if vars(one)[f] != vars(other)[f]} <= changed


def test_a_duration_ends_an_open_loop() -> None:
    found = planned(load__rate=50.0, load__duration_s=20.0)
    assert found[0].at_s > 0 and found[-1].at_s < 20.0
    assert len(found) == pytest.approx(1000, rel=0.1)
    assert len(planned(load__rate=50.0, load__duration_s=20.0, load__requests=3)) == 3


def test_a_duration_does_not_end_a_closed_loop() -> None:
    endless = schedule(config(load__arrival="closed", load__duration_s=1.0), [], 1)
    assert len(list(islice(endless, 5000))) == 5000


def test_a_trace_is_played_as_it_is() -> None:
    found = traced(load__arrival="trace", load__speed=2.0)
    assert [p.at_s for p in found] == [n / 2 for n in range(6)]
    assert [p.input_tokens for p in found] == [r.input_tokens for r in ROWS]
    assert [p.output_tokens for p in found] == [r.output_tokens for r in ROWS]
    assert [p.blocks for p in found] == [r.blocks for r in ROWS]
    assert len(traced(load__arrival="trace", load__duration_s=2.5)) == 3


def test_lengths_of_a_trace_at_times_of_ones_own() -> None:
    found = traced(load__rate=3.0)
    assert [p.input_tokens for p in found] == [r.input_tokens for r in ROWS]
    assert [p.at_s for p in found] == [p.at_s for p in planned(load__rate=3.0)][:6]


def test_times_of_a_trace_with_lengths_of_ones_own() -> None:
    found = traced(load__arrival="trace", work__input="12")
    assert {p.input_tokens for p in found} == {12} and not any(p.blocks for p in found)
    assert [p.output_tokens for p in found] == [r.output_tokens for r in ROWS]


def test_a_trace_ends_the_schedule() -> None:
    assert len(traced(load__requests=100)) == 6 and len(traced(load__requests=2)) == 2
    assert len(traced(load__arrival="closed")) == 6


def test_keys_and_prefixes_are_dealt_at_random() -> None:
    flags = {"work__prefix_tokens": 8, "work__prefixes": 4, "work__prefix_share": 0.25}
    found = planned(3, load__requests=6000, **flags)
    counts = np.bincount([p.key for p in found])
    assert len(counts) == 3 and (np.abs(counts - 2000) < 150).all()
    have = [p.prefix for p in found if p.prefix is not None]
    assert len(have) / 6000 == pytest.approx(0.25, abs=0.02)
    assert (np.abs(np.bincount(have) / len(have) - 0.25) < 0.03).all()
    assert all(p.prefix is None for p in planned(work__prefixes=4))


def test_warm_up_requests_are_none_of_the_schedule() -> None:
    given = config(load__warmup=5, work__input="uniform(30,50)", work__prefix_tokens=9)
    found = warmup(given, 2)
    assert [p.index for p in found] == [-1, -2, -3, -4, -5]
    assert {p.key for p in found} == {0, 1} and all(p.prefix is None for p in found)
    assert all(30 <= p.input_tokens <= 50 for p in found)
    assert {p.input_tokens for p in warmup(config(work__trace="t"), 1)} == {64}


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"load__arrival": "trace"}, "--trace"),
        ({"work__input": "trace"}, "--trace"),
        ({"work__output": "trace"}, "--trace"),
        ({"endpoint": "chat", "prompts": "tokens"}, "no token ids"),
        ({"url": "localhost:8000"}, "no URL"),
        ({"work__vocabulary_low": 9, "work__vocabulary_high": 9}, "no token ids"),
    ],
)
def test_settings_that_contradict_are_refused(flags: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        config(**flags)


def test_lengths_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"work\.output"):
        planned(work__output="some")


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_a_url_may_end_as_other_tools_have_it(url: str) -> None:
    assert config(url=url).url == "http://h:1"
    assert settled(replace(config(), url=url)).url == "http://h:1"
