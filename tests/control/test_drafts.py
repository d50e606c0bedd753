"""Drafts: steps that give a request several tokens, and still the answer of a run alone."""

from __future__ import annotations

from typing import Any

import pytest
from control_world import World, answer, ask
from hypothesis import given
from hypothesis import strategies as st

from silva.control import scheduler
from silva.control.request import StepResult
from silva.errors import ConfigError

ASKED = st.lists(
    st.tuples(
        st.integers(1, 24),
        st.integers(1, 28),
        st.sampled_from([None, None, 1, 2, 5]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
ENGINES = st.fixed_dictionaries(
    {
        "blocks": st.sampled_from([8, 9, 12, 24]),
        "context_tokens": st.sampled_from([32, 31, 30, 6]),
        "step_tokens": st.integers(16, 40),
        "max_running": st.integers(1, 4),
        "drafts": st.integers(1, 3),
    }
)


@given(ENGINES, ASKED)
def test_every_answer_is_that_of_a_run_alone(
    engine: dict[str, Any], asked: list[tuple[int, int, int | None, bool]]
) -> None:
    world = World(**engine)
    expected = {}
    for number, (prompt, count, stop, shares) in enumerate(asked):
        room = engine["context_tokens"] - 1
        count = min(count, engine["context_tokens"] - min(prompt, room))
        request = ask(f"r{number}", tuple(range(min(prompt, room))), count, priority=number % 2)
        world.add(request, stop=stop, share=shares)
        expected[request.id] = answer(request, stop)
        world.step()
    world.run()
    assert {name: world.said(name) for name in expected} == expected
    assert world.ended.keys() == expected.keys()
    assert world.state.counts().blocks_used == 0
    assert len(world.state.growth) == len(world.state.ends) == 0


def test_right_drafts_save_steps() -> None:
    worlds = [World(drafts=drafts) for drafts in (0, 1, 3)]
    for world in worlds:
        for name in ("a", "b", "c"):
            world.add(ask(name, 5, 40))
        world.run()
    plain, one, three = (len(world.plans) for world in worlds)
    assert plain > one > three
    assert worlds[0].runner.accepted == 0
    assert {w.said("a") == worlds[0].said("a") for w in worlds} == {True}


def test_a_draft_has_a_block_before_its_step() -> None:
    world = World(drafts=1)
    world.add(ask("a", 3, 20))
    world.step()
    plan = world.schedule()
    assert plan.joined == ("a",) and plan.blocks == (("a", plan.blocks[0][1]),)
    assert len(plan.blocks[0][1]) == 1  # positions 3 and 4: the second is the next block's first


@pytest.mark.parametrize("more", [(("a", 2),), (("a", 0),), (("b", 1),), (("c", 1),)])
def test_more_than_there_can_be_is_refused(more: tuple[tuple[str, int], ...]) -> None:
    world = World(drafts=1)
    world.add(ask("a", 3, 20))
    world.step()
    world.add(ask("c", 9, 4))
    plan = world.schedule()
    with pytest.raises(ValueError, match="cannot have"):
        scheduler.update(world.state, StepResult(plan.step, 0.1, (), more))


def test_the_last_token_leaves_no_room_for_a_draft() -> None:
    world = World(drafts=1)
    world.add(ask("a", 3, 2))
    world.step()
    plan = world.schedule()
    with pytest.raises(ValueError, match="a cannot have 1 more"):
        scheduler.update(world.state, StepResult(plan.step, 0.1, (), (("a", 1),)))
    update = scheduler.update(world.state, StepResult(plan.step, 0.1))
    assert [(e.request, e.reason) for e in update.ended] == [("a", "length")]


def test_who_ends_with_a_draft_is_known_before_the_update() -> None:
    world = World(drafts=1)
    world.add(ask("a", 3, 3))
    world.step()
    plan = world.schedule()
    assert scheduler.ending(world.state) == ()
    assert scheduler.ending(world.state, (("a", 1),)) == ("a",)
    update = scheduler.update(world.state, StepResult(plan.step, 0.1, (), (("a", 1),)))
    assert [e.request for e in update.ended] == ["a"]


def test_drafts_count_against_the_step() -> None:
    with pytest.raises(ConfigError, match="8 requests cannot all decode in a step of 15 tokens"):
        World(drafts=1, max_running=8, step_tokens=15)
    with pytest.raises(ConfigError, match="drafts"):
        World(drafts=-1)
    assert scheduler.quiet_steps(World(drafts=1).state) == 0
