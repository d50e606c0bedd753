"""Common prefixes are computed once, read only when they are there, and never across namespaces."""

from __future__ import annotations

import pytest
from control_world import IDENTITY, World, answer, ask, hash_tokens

from silva.control import scheduler
from silva.control.prefix import extend
from silva.control.request import StoredBlock

COMMON = tuple(hash_tokens("sys", 32))


def member(number: int, **more: object):  # type: ignore[no-untyped-def]
    tail = tuple(hash_tokens(f"m{number:02}", 5))
    return ask(f"m{number:02}", COMMON + tail, answer=3, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("step_tokens", [256, 20, 12])
def test_requests_submitted_together_compute_their_prefix_once(step_tokens: int) -> None:
    world = World(blocks=200, step_tokens=step_tokens, max_running=8)
    for number in range(32):
        world.add(member(number))
    world.run()
    prefix = sum(
        max(0, min(chunk.stop, 32) - chunk.start) for plan in world.plans for chunk in plan.chunks
    )
    assert prefix == 32
    assert [ended.cached_tokens for ended in world.ended.values()] == [0] + [32] * 31
    for number in range(32):
        assert world.said(f"m{number:02}") == answer(member(number))


def test_a_common_prefix_of_512_tokens_and_32_requests() -> None:
    world = World(blocks=2000, context_tokens=600, step_tokens=512, max_running=64)
    common = tuple(hash_tokens("sys", 512))
    for number in range(32):
        tail = tuple(hash_tokens(f"t{number:02}", 3))
        world.add(ask(f"t{number:02}", common + tail, answer=2))
    world.run()
    computed = sum(chunk.stop - chunk.start for plan in world.plans for chunk in plan.chunks)
    assert computed == 512 + 32 * 3
    assert len(world.plans) < 12


def test_a_later_request_finds_what_is_kept() -> None:
    world = World()
    world.add(member(1))
    world.run()
    world.add(member(2))
    world.run()
    assert world.ended["m02"].cached_tokens == 32
    assert world.said("m02") == answer(member(2))


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    world = World()
    for name in ("a", "b"):
        world.add(ask(name, COMMON, answer=3))
        world.run()
    assert world.ended["b"].cached_tokens == 28
    assert world.plans[-4].chunks[0].start == 28
    assert world.said("a") == world.said("b")


def test_namespaces_and_adapters_share_nothing() -> None:
    world = World(blocks=200)
    for number, namespace in enumerate(["x", "y", "", "x"]):
        world.add(member(number, namespace=namespace))
    world.run()
    cached = [world.ended[f"m{number:02}"].cached_tokens for number in range(4)]
    assert cached == [0, 0, 0, 32]


def test_other_requests_go_on_while_some_wait_for_a_prefix() -> None:
    world = World(blocks=200, step_tokens=45, max_running=8)
    world.add(member(0))
    world.add(member(1))
    world.add(ask("other", 8, answer=2))
    world.step()
    assert [chunk.request for chunk in world.plans[0].chunks] == ["m00", "other"]
    world.step()
    assert [chunk.request for chunk in world.plans[1].chunks] == ["m01"]


def test_waiting_for_a_prefix_does_not_invert_priorities() -> None:
    """The urgent one overtakes the one whose prefix it shares, instead of waiting behind others."""
    world = World(blocks=200, step_tokens=12, max_running=8)
    world.add(member(0, priority=5))
    world.step()
    world.add(ask("middle", 40, answer=2, priority=3))
    world.add(member(1, priority=0))
    world.step()
    assert [chunk.request for chunk in world.plans[1].chunks] == ["m01"]
    assert world.plans[1].chunks[0].start == 12
    world.run()
    assert next(iter(world.ended)) == "m01"
    assert world.ended["m00"].cached_tokens > 0


def test_whoever_waits_goes_on_when_the_maker_is_cancelled() -> None:
    world = World(blocks=200, step_tokens=12, max_running=8)
    world.add(member(0))
    world.add(member(1))
    plan = world.schedule()
    scheduler.cancel(world.state, "m00")
    world.finish_step(plan)
    world.run()
    assert world.said("m01") == answer(member(1))
    assert world.ended["m01"].cached_tokens == 12
    assert world.state.counts().blocks_used == 0


def test_a_waiting_request_can_be_cancelled() -> None:
    world = World(blocks=200, step_tokens=12, max_running=8)
    for number in range(3):
        world.add(member(number))
    plan = world.schedule()
    assert scheduler.cancel(world.state, "m01")
    world.finish_step(plan)
    world.run()
    assert list(world.ended) == ["m00", "m02"]


def test_many_that_wait_for_one_prefix_cost_no_more_than_the_batch_holds() -> None:
    world = World(blocks=200, max_running=4)
    for number in range(50):
        world.add(member(number))
    plan = world.schedule()
    assert len(world.state.waiting) == 50 - 4
    world.finish_step(plan)
    world.run()
    assert len(world.ended) == 50


def test_kept_blocks_make_room_for_new_ones() -> None:
    world = World(blocks=16, context_tokens=64)
    for name in "abcdef":
        world.add(ask(name, 30, answer=3))
        world.run()
    assert len(world.ended) == 6
    world.add(ask("f2", tuple(hash_tokens("f", 30)), answer=3))
    world.run()
    assert world.ended["f2"].cached_tokens == 28


def test_stored_blocks_are_reported_once() -> None:
    world = World(step_tokens=12, max_running=4, blocks=200)
    stored = []
    world.add(member(0))
    world.add(member(1))
    for _ in range(12):
        stored += world.step().stored
    keys = [block.key for block in stored]
    expected = {*IDENTITY.keys(member(0)), *IDENTITY.keys(member(1))}
    assert set(keys) == expected and len(keys) == len(expected)
    assert all(world.state.index.find(each.key) == each.block for each in stored)


def test_stored_blocks_say_whose_they_are() -> None:
    world = World(step_tokens=36, max_running=4, blocks=200)
    requests = [ask(name, tuple(range(12)), answer=9, namespace=name) for name in ("a", "b", "")]
    for request in requests:
        world.add(request)
    stored = world.step().stored
    for request in requests:
        own = [each.key for each in stored if each.namespace == request.namespace]
        assert own == list(IDENTITY.keys(request))
    assert len({each.block for each in stored}) == 9


def test_a_next_turn_shares_the_answer_too() -> None:
    world = World(context_tokens=64)
    first = ask("a", 10, answer=12)
    world.add(first)
    root = IDENTITY.root()
    learned: tuple[StoredBlock, ...] = ()
    while "a" not in world.ended:
        plan = world.schedule()
        if scheduler.ending(world.state):
            tokens = world.runner.tokens["a"]
            keys = extend(root, IDENTITY.keys(first), tokens, 4)
            learned = scheduler.learn(world.state, "a", keys)
            assert [each.key for each in learned] == list(keys)
            with pytest.raises(ValueError, match="not keys of a"):
                scheduler.learn(world.state, "a", keys[1:])
        world.finish_step(plan)
    assert len(learned) == 5 and len({each.block for each in learned}) == 5
    follow = ask("b", (*first.prompt, *answer(first), 7, 7, 7), answer=3)
    world.add(follow)
    world.run()
    assert world.ended["b"].cached_tokens == 20
    assert world.said("b") == answer(follow)


def test_pinned_blocks_outlive_their_request() -> None:
    world = World(blocks=16, context_tokens=64)
    world.add(ask("a", 30, answer=1))
    stored = world.step().stored
    blocks = [each.block for each in stored]
    scheduler.pin(world.state, blocks)
    world.add(ask("b", 30, answer=3))
    world.run()
    assert all(world.state.index.find(each.key) == each.block for each in stored)
    scheduler.unpin(world.state, blocks)
    with pytest.raises(ValueError, match="not pinned"):
        scheduler.unpin(world.state, blocks)
    assert world.state.counts().blocks_used == 0


def test_one_that_was_overtaken_waits_for_what_the_other_computes() -> None:
    world = World(blocks=200, step_tokens=24, max_running=8)
    world.add(member(0, priority=5))
    world.step()
    world.add(member(1, priority=0))
    world.step()
    world.step()
    assert [(chunk.request, chunk.start) for plan in world.plans for chunk in plan.chunks] == [
        ("m00", 0),
        ("m01", 24),
        ("m00", 32),
    ]
