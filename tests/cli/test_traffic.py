"""Requests for `plan` and `simulate`: those of a trace, or made up, all or the first of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from silva.cli.traffic import make_traffic
from silva.errors import ConfigError

MADE = {"rate": 2.0, "prompt": 100.0, "output": 10.0}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    row = {"input_length": 512, "output_length": 20, "hash_ids": [1]}
    path.write_text("\n".join(json.dumps({"timestamp": 1000 * n, **row}) for n in range(5)))
    return path


def test_a_trace_as_far_as_asked(trace: Path) -> None:
    """What would be made up is not looked at."""
    assert len(make_traffic(trace, {"rate": 0.0}, 0)) == 5
    assert make_traffic(trace, {}, 0, count=3).arrival_s.tolist() == [0.0, 1.0, 2.0]


def test_made_up_requests_come_at_their_rate_for_as_long_as_asked() -> None:
    found = make_traffic(None, {**MADE, "seconds": 500.0}, 0)
    assert len(found) == pytest.approx(1000, rel=0.1)
    assert found.mean_prompt == pytest.approx(100, rel=0.2)


def test_a_number_of_made_up_requests_takes_as_long_as_they_take_to_come() -> None:
    found = make_traffic(None, MADE, 0, count=1000)
    assert 900 < len(found) <= 1000
    assert found.arrival_s[-1] == pytest.approx(500, rel=0.1)


def test_a_seed_says_which() -> None:
    one, same, other = (make_traffic(None, MADE, seed, 50).arrival_s.tolist() for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("count", [None, 5])
def test_a_rate_of_nothing_is_refused(count: int | None) -> None:
    with pytest.raises(ConfigError, match="rate"):
        make_traffic(None, {"rate": 0.0}, 0, count)
