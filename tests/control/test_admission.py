"""What the operator is shown is what the scheduler does."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from control_world import World, ask

from silva.control.admission import OFFERED_S, admission, admitted, mean_context, together
from silva.control.slo import LinearStepTime
from silva.errors import ConfigError

TIMES = LinearStepTime(0.010, request_s=0.0005)
"""40 requests take 30 ms, 10 take 15 ms."""


def busy(target_s: float | None, requests: int, aim: float = 1.0) -> World:
    """A world in which as many decode as the target lets in."""
    world = World(TIMES, target_s=target_s, aim=aim, blocks=400, max_running=64)
    for number in range(requests):
        world.add(ask(f"r{number}", 8, 30))
    for _ in range(12):
        world.step()
    return world


@pytest.mark.parametrize("target_s", [0.0151, 0.0121, 0.005, None])
def test_as_many_decode_as_are_shown(target_s: float | None) -> None:
    world = busy(target_s, 30)
    told = admission(world.state, TIMES, 0.02)
    assert min(told.batch, 30) == world.state.decoding
    assert (told.target_s, told.tpot_s) == (target_s or 0.0, 0.02)
    assert told.context_tokens == mean_context(world.state) > 8
    json.dumps(asdict(told), allow_nan=False)


def test_the_trade_has_no_target_the_offered_ones_and_the_one_that_is_set() -> None:
    told = admission(busy(0.0201, 5).state, TIMES, 0.0)
    assert [row.target_s for row in told.trades] == [0.0, 0.05, 0.03, 0.0201, 0.015]
    assert [row.batch for row in told.trades] == [64, 64, 40, 20, 10]
    assert told.trades[3].batch == told.batch
    assert told.trades[0].tokens_per_s == pytest.approx(64 / 0.042)
    again = admission(busy(None, 5).state, TIMES, 0.0)
    assert [row.target_s for row in again.trades] == [0.0, *OFFERED_S]


def test_nothing_is_said_of_what_was_never_seen() -> None:
    world = World(TIMES, target_s=0.02, max_running=64)
    assert admission(world.state, TIMES, 0.0).trades == ()
    assert admission(busy(0.02, 3).state, LinearStepTime(0.0), 0.0).trades == ()
    assert admitted(world.state, TIMES, mean_context(world.state)) == 64


def test_the_last_contexts_are_remembered() -> None:
    world = busy(0.0151, 5)
    before = admission(world.state, TIMES, 0.0)
    world.run()
    assert world.state.decoding == 0
    assert admission(world.state, TIMES, 0.0, before) == before


def test_peers_together() -> None:
    one = admission(busy(0.0151, 20).state, TIMES, 0.016)
    other = admission(busy(0.0151, 3).state, TIMES, 0.011)
    idle = admission(World(TIMES, target_s=0.0151, max_running=64).state, TIMES, 0.0)
    both = together([one, other, idle])
    assert both is not None
    assert (both.batch, both.tpot_s, both.target_s) == (10 + 10 + 64, 0.016, 0.0151)
    assert both.trades[0].batch == 128
    rates = one.trades[0].tokens_per_s + other.trades[0].tokens_per_s
    assert both.trades[0].tokens_per_s == pytest.approx(rates)
    assert together([]) is None


def test_a_lower_aim_plans_shorter_steps_for_the_same_target() -> None:
    lower, plain = busy(0.0201, 30, aim=0.75), busy(0.75 * 0.0201, 30)
    told = admission(lower.state, TIMES, 0.0)
    assert lower.state.decoding == plain.state.decoding == told.batch == 10
    assert told.target_s == 0.0201
    assert [row.target_s for row in told.trades] == [0.0, 0.05, 0.03, 0.0201, 0.015]


@pytest.mark.parametrize("aim", [0.0, -1.0, 1.01])
def test_an_aim_is_a_share_of_the_target(aim: float) -> None:
    with pytest.raises(ConfigError, match="share"):
        busy(0.02, 1, aim=aim)
