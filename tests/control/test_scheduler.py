"""What one step does: batching, chunks, order, preemption, cancelling, and the TPOT target."""

from __future__ import annotations

import pytest
from control_world import FLAT, World, answer, ask

from silva.control import scheduler
from silva.control.request import Chunk, StepResult
from silva.control.slo import LinearStepTime
from silva.control.state import Settings, State
from silva.errors import ConfigError


def test_one_request_from_prompt_to_end() -> None:
    world = World()
    world.add(ask("a", 6, answer=3))
    world.run()
    first, second, third, last = world.plans
    assert first.chunks == (Chunk("a", 0, 6, samples=True),)
    assert first.blocks == (("a", (0, 1)),)
    assert (first.decoding, first.tokens, first.joined) == (0, 6, ())
    assert (second.joined, second.decoding, second.tokens, second.blocks) == (("a",), 1, 1, ())
    assert (third.joined, third.decoding, third.blocks) == ((), 1, ())
    assert (last.left, last.tokens) == (("a",), 0)
    assert world.said("a") == answer(ask("a", 6, answer=3))
    assert world.ended["a"].reason == "length"
    assert world.state.counts().blocks_used == 0 and not world.state.entries


def test_a_block_is_given_in_the_step_that_needs_it() -> None:
    world = World()
    world.add(ask("a", 7, answer=4))
    world.run()
    given = {plan.step: plan.blocks for plan in world.plans if plan.blocks}
    assert given == {0: (("a", (0, 1)),), 2: (("a", (2,)),)}


def test_an_end_token_ends() -> None:
    world = World()
    world.add(ask("a", 6, answer=30), stop=1)
    world.add(ask("b", 6, answer=30), stop=5)
    world.run()
    assert {name: ended.reason for name, ended in world.ended.items()} == {"a": "stop", "b": "stop"}
    assert [len(world.said(name)) for name in "ab"] == [1, 5]
    assert not any("a" in plan.joined for plan in world.plans)


def test_an_end_token_at_the_last_position_counts_as_stop() -> None:
    world = World()
    world.add(ask("a", 6, answer=3), stop=3)
    world.add(ask("b", 6, answer=1), stop=1)
    world.run()
    assert [world.ended[name].reason for name in "ab"] == ["stop", "stop"]


def test_the_context_ends_an_answer() -> None:
    world = World(context_tokens=10)
    world.add(ask("a", 6, answer=100))
    world.run()
    assert len(world.said("a")) == 4 and world.ended["a"].reason == "length"


def test_a_long_prompt_is_computed_in_chunks_beside_those_that_decode() -> None:
    world = World(step_tokens=9, max_running=4)
    world.add(ask("a", 6, answer=9))
    world.step()
    world.add(ask("b", 20, answer=2))
    world.run()
    chunks = [(plan.decoding, *plan.chunks) for plan in world.plans if plan.chunks][1:]
    assert chunks == [
        (1, Chunk("b", 0, 8, samples=False)),
        (1, Chunk("b", 8, 16, samples=False)),
        (1, Chunk("b", 16, 20, samples=True)),
    ]


def test_several_prompts_share_a_step() -> None:
    world = World(step_tokens=20, max_running=8)
    for name in "abc":
        world.add(ask(name, 8))
    world.step()
    assert world.plans[0].chunks == (
        Chunk("a", 0, 8, samples=True),
        Chunk("b", 0, 8, samples=True),
        Chunk("c", 0, 4, samples=False),
    )


def test_smaller_priorities_first_then_arrival() -> None:
    world = World(max_running=1, step_tokens=64)
    world.add(ask("late", 4, arrival_s=2.0))
    world.add(ask("low", 4, priority=1, arrival_s=0.0))
    world.add(ask("early", 4, arrival_s=1.0))
    world.add(ask("urgent", 4, priority=-1, arrival_s=9.0))
    world.run()
    assert list(world.ended) == ["urgent", "early", "late", "low"]


def test_the_last_and_least_urgent_yields_its_blocks_and_loses_nothing() -> None:
    world = World(blocks=8, context_tokens=32, max_running=8)
    for name, priority in (("a", 0), ("b", 1), ("c", 0)):
        world.add(ask(name, 4, answer=20, priority=priority), share=False)
    world.run()
    preempted = [name for plan in world.plans for name in plan.preempted]
    assert preempted[0] == "b" and "a" not in preempted
    for name in "abc":
        assert world.said(name) == answer(ask(name, 4, answer=20))
        assert world.ended[name].preemptions == preempted.count(name)
    assert next(iter(world.ended)) == "a"


def test_a_preempted_request_finds_its_own_prompt_again() -> None:
    world = World(blocks=9, context_tokens=36, max_running=8)
    world.add(ask("a", 8, answer=20))
    world.add(ask("b", 13, answer=12))
    world.run()
    again = [c for plan in world.plans for c in plan.chunks if c.request == "b"][1:]
    assert world.ended["b"].preemptions == 1 and again
    assert again[0].start > 0
    assert world.ended["b"].cached_tokens == 0
    assert world.said("b") == answer(ask("b", 13, answer=12))


def test_an_urgent_request_takes_blocks_from_lower_priorities_only() -> None:
    world = World(blocks=10, context_tokens=40)
    world.add(ask("a", 18, answer=12, priority=1), share=False)
    world.add(ask("b", 14, answer=12, priority=2), share=False)
    world.step()
    world.step()
    world.add(ask("same", 12, answer=2, priority=2))
    world.step()
    assert world.plans[-1].chunks == () and world.plans[-1].preempted == ()
    world.add(ask("urgent", 12, answer=2, priority=0))
    world.step()
    assert world.plans[-1].preempted == ("b",)
    assert [chunk.request for chunk in world.plans[-1].chunks] == ["urgent"]
    world.run()
    assert len(world.ended) == 4


def test_nobody_is_preempted_where_it_would_not_help() -> None:
    world = World(blocks=12, context_tokens=48)
    world.add(ask("a", 20, answer=20, priority=0))
    world.add(ask("b", 4, answer=20, priority=2))
    world.step()
    world.step()
    world.add(ask("big", 40, answer=2, priority=1))
    world.step()
    assert world.plans[-1].preempted == ()
    world.run()
    assert len(world.ended) == 3


def test_the_first_without_room_is_not_overtaken() -> None:
    world = World(blocks=12, context_tokens=48)
    world.add(ask("a", 20, answer=10))
    world.step()
    world.add(ask("big", 36, answer=2))
    world.add(ask("small", 4, answer=2))
    world.run()
    assert list(world.ended) == ["a", "big", "small"]


@pytest.mark.parametrize("when", ["waiting", "computing", "joining", "decoding"])
def test_cancelling_gives_all_blocks_back(when: str) -> None:
    world = World(step_tokens=8, max_running=2)
    world.add(ask("a", 16, answer=9), share=False)
    for _ in range({"waiting": 0, "computing": 1, "joining": 2, "decoding": 4}[when]):
        world.step()
    assert scheduler.cancel(world.state, "a")
    assert not world.state.entries and world.state.counts().blocks_free == 40
    assert not scheduler.cancel(world.state, "a")
    plan = world.schedule()
    assert (plan.left, plan.tokens) == (("a",) if when != "waiting" else (), 0)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_request_cancelled_in_flight_keeps_its_blocks_until_the_step_is_over(steps: int) -> None:
    world = World(step_tokens=8, max_running=2)
    world.add(ask("a", 12, answer=2), stop=2)
    for _ in range(steps):
        world.step()
    plan = world.schedule()
    assert plan.tokens
    assert scheduler.cancel(world.state, "a") and scheduler.cancel(world.state, "a")
    assert world.state.counts().blocks_used > 0
    update = world.finish_step(plan)
    assert update.ended == [] and update.handed == []
    assert world.state.counts().blocks_used == 0 and not world.state.entries


def test_an_id_may_come_back_at_once() -> None:
    world = World()
    world.add(ask("a", 8, answer=9))
    world.step()
    world.step()
    scheduler.cancel(world.state, "a")
    world.add(ask("a", 8, answer=3))
    plan = world.schedule()
    assert plan.left == ("a",) and plan.chunks[0].request == "a" and plan.preempted == ()
    world.finish_step(plan)
    world.run()
    assert world.said("a") == answer(ask("a", 8, answer=3))


def test_tokens_given_out_elsewhere_are_continued() -> None:
    whole = ask("a", 6, answer=8)
    begun = ask("a", 6, answer=8, emitted=tuple(answer(whole)[:5]))
    world = World()
    world.add(begun)
    world.run()
    assert world.plans[0].chunks == (Chunk("a", 0, 11, samples=True),)
    assert world.said("a") == answer(whole)


STEADY = LinearStepTime(0.010, request_s=0.004, prefill_token_s=0.001)


@pytest.mark.parametrize(
    ("target_s", "batch"), [(0.0501, 10), (0.0301, 5), (0.0151, 1), (0.001, 1)]
)
def test_the_batch_holds_the_target(target_s: float, batch: int) -> None:
    world = World(STEADY, target_s=target_s, blocks=200, max_running=32)
    for number in range(12):
        world.add(ask(f"r{number:02}", 4, answer=20))
    world.run()
    assert max(plan.decoding for plan in world.plans) == batch
    assert len(world.ended) == 12
    for plan in world.plans:
        if plan.decoding and batch > 1:
            seconds = STEADY.seconds(plan.decoding, 0, plan.tokens - plan.decoding)
            assert seconds <= target_s


def test_chunks_shrink_to_hold_the_target() -> None:
    world = World(STEADY, target_s=0.0301, step_tokens=64)
    world.add(ask("a", 4, answer=20))
    world.step()
    world.add(ask("b", 40, answer=2))
    world.step()
    assert world.plans[0].tokens == 4
    assert world.plans[1].chunks == (Chunk("b", 0, 16, samples=False),)


def test_the_target_can_change() -> None:
    world = World(STEADY, target_s=0.0151, max_running=8)
    for name in "abc":
        world.add(ask(name, 4, answer=20))
    for _ in range(4):
        world.step()
    assert world.plans[-1].decoding == 1
    world.state.retarget(None)
    for _ in range(3):
        world.step()
    assert world.plans[-1].decoding == 3


def test_the_load_of_a_step_is_known() -> None:
    world = World()
    world.add(ask("a", 6, answer=5))
    world.add(ask("b", 3, answer=5))
    plan = world.schedule()
    assert world.state.load() == (0, 0, 9)
    world.finish_step(plan)
    world.add(ask("c", 2, answer=5))
    world.schedule()
    assert world.state.load() == (2, 7 + 4, 2)


def test_steps_come_in_order() -> None:
    world = World()
    with pytest.raises(ValueError, match="not in flight"):
        scheduler.update(world.state, StepResult(0, 0.1))
    world.add(ask("a", 6))
    plan = world.schedule()
    with pytest.raises(RuntimeError, match="in flight"):
        scheduler.schedule(world.state, 0.0, FLAT)
    with pytest.raises(ValueError, match="not in flight"):
        scheduler.update(world.state, StepResult(plan.step + 1, 0.1))
    with pytest.raises(ValueError, match="b was given no token"):
        scheduler.update(world.state, StepResult(plan.step, 0.1, (("b", "stop"),)))
    assert len(scheduler.update(world.state, StepResult(plan.step, 0.1)).ended) == 0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask("a", ()), "no prompt"),
        (ask("a", 64, answer=9), "has 64 tokens and may have 64"),
        (ask("a", 8, answer=0), "has 8 tokens and may have 8"),
        (ask("a", 8, answer=2, emitted=(1, 2)), "has 10 tokens and may have 10"),
        (ask("known", 8), "here already"),
    ],
)
def test_impossible_requests_are_refused(request_, message: str) -> None:  # type: ignore[no-untyped-def]
    world = World()
    world.add(ask("known", 8))
    with pytest.raises(ValueError, match=message):
        world.add(request_)
    assert list(world.state.entries) == ["known"]


def test_too_many_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="3 keys for 8 tokens"):
        scheduler.add(State(Settings(40, 64, 4)), ask("a", 8), [b"1", b"2", b"3"])


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"blocks": 0}, "blocks"),
        ({"target_s": 0.0}, "target_s"),
        ({"max_running": 600}, "max_running"),
        ({"context_tokens": 161}, "context_tokens"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, int], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        World(**settings)
    assert caught.value.where == where
