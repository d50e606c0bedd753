"""Steps in which nothing changes can be taken together, and come to the same."""

from __future__ import annotations

import random

import pytest
from control_world import FLAT, World, ask

from silva.control import handover, scheduler
from silva.control.integrity import check
from silva.control.request import StepResult
from silva.control.scheduler import Update
from silva.control.slo import LinearStepTime
from silva.control.state import State


def test_it_is_quiet_until_someone_ends() -> None:
    world = World()
    world.add(ask("a", 6, answer=9))
    world.add(ask("b", 6, answer=20))
    assert scheduler.quiet_steps(world.state) == 0
    world.step()
    assert scheduler.quiet_steps(world.state) == 0
    world.step()
    assert scheduler.quiet_steps(world.state) == 7
    update = scheduler.advance(world.state, 7)
    check(world.state)
    assert [(ended.request, ended.reason) for ended in update.ended] == [("a", "length")]
    assert scheduler.quiet_steps(world.state) == 11
    assert world.state.load() == (1, 15, 0)
    assert scheduler.advance(world.state, 0) == Update()
    with pytest.raises(ValueError, match="only 11 are quiet"):
        scheduler.advance(world.state, 12)
    scheduler.advance(world.state, 11)
    assert not world.state.entries and scheduler.quiet_steps(world.state) == 0


def test_the_last_of_some_quiet_steps_is_in_flight_when_someone_comes() -> None:
    world = World()
    world.add(ask("a", 6, answer=9))
    world.step()
    world.step()
    with pytest.raises(ValueError, match="only 7 are quiet"):
        scheduler.begin(world.state, 8)
    with pytest.raises(ValueError, match="cannot begin step 0"):
        scheduler.begin(world.state, 0)
    plan = scheduler.begin(world.state, 3)
    check(world.state)
    assert (plan.step, plan.decoding, plan.tokens, plan.joined) == (world.state.step, 1, 1, ())
    assert world.state.load() == (1, 6 + 1 + 1 + 2, 0)
    assert scheduler.quiet_steps(world.state) == 0
    scheduler.add(world.state, ask("b", 6, answer=9))
    with pytest.raises(RuntimeError, match="in flight"):
        scheduler.schedule(world.state, 0.0, FLAT)
    assert scheduler.update(world.state, StepResult(plan.step, 0.0)) == Update()
    check(world.state)
    following = scheduler.schedule(world.state, 0.0, FLAT)
    assert (following.step, following.decoding) == (plan.step + 1, 1)
    assert [chunk.request for chunk in following.chunks] == ["b"]


def test_it_is_quiet_while_the_queue_is_stuck() -> None:
    world = World(max_running=1)
    world.add(ask("a", 6, answer=9))
    world.add(ask("b", 6, answer=9))
    world.step()
    world.step()
    assert scheduler.quiet_steps(world.state) == 7
    scheduler.advance(world.state, 7)
    assert scheduler.quiet_steps(world.state) == 0
    assert world.schedule().chunks[0].request == "b"


def test_running_out_of_blocks_is_not_quiet() -> None:
    world = World(blocks=8, context_tokens=32)
    for name in "ab":
        world.add(ask(name, 8, answer=20))
    world.step()
    world.step()
    for _ in range(40):
        steps = scheduler.quiet_steps(world.state)
        scheduler.advance(world.state, steps)
        check(world.state)
        if not steps:
            step(world.state)
        if "a" not in world.state.entries:
            break
    assert world.state.entries["b"].preemptions == 1


def step(state: State) -> Update:
    """One round without a runner: nobody samples an end token."""
    plan = scheduler.schedule(state, 0.0, SLOW)
    return scheduler.update(state, StepResult(plan.step, 0.0)) if plan.tokens else Update()


SLOW = LinearStepTime(0.010, request_s=0.002, context_token_s=1e-5, prefill_token_s=0.0005)


@pytest.mark.parametrize("seed", range(12))
def test_advancing_comes_to_the_same_as_single_steps(seed: int) -> None:
    draw = random.Random(seed)
    settings = {
        "blocks": draw.choice((10, 20, 60)),
        "context_tokens": 40,
        "max_running": draw.choice((2, 5)),
        "target_s": draw.choice((None, 0.016)),
    }
    fast, slow = World(SLOW, **settings), World(SLOW, **settings)
    for number in range(40):
        request = ask(f"r{number:02}", draw.randint(1, 20), answer=draw.randint(2, 19))
        for world in (fast, slow):
            if number % 5 == 4:
                if handover.reserve(world.state, request, (), FLAT):
                    handover.commit(world.state, request.id)
            else:
                world.add(request)
        for _ in range(draw.randint(0, 6)):
            steps = scheduler.quiet_steps(fast.state)
            if steps:
                steps = draw.randint(1, steps)
                if draw.random() < 0.5:
                    ended = scheduler.advance(fast.state, steps).ended
                else:
                    plan = scheduler.begin(fast.state, steps)
                    ended = scheduler.update(fast.state, StepResult(plan.step, 0.0)).ended
                single = [each for _ in range(steps) for each in step(slow.state).ended]
                assert ended == single
            else:
                assert step(fast.state) == step(slow.state)
            compare(fast.state, slow.state)


def compare(fast: State, slow: State) -> None:
    check(fast)
    check(slow)
    assert fast.step == slow.step and fast.counts() == slow.counts() and fast.load() == slow.load()
    for one, other in zip(fast.entries.values(), slow.entries.values(), strict=True):
        assert (one.request.id, one.stage, one.blocks) == (
            other.request.id,
            other.stage,
            other.blocks,
        )
        assert fast.length_of(one) == slow.length_of(other)
