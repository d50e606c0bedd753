"""Blocks from cache peers: looked for once, waited for by others, and never in anybody's way."""

from __future__ import annotations

import pytest
from control_world import IDENTITY, World, answer, ask, hash_tokens

from silva.control import fills, scheduler
from silva.control.integrity import check
from silva.control.request import Request

COMMON = tuple(hash_tokens("sys", 32))


def member(number: int) -> Request:
    return ask(f"m{number:02}", COMMON + tuple(hash_tokens(f"m{number:02}", 5)), answer=3)


class Peers(World):
    """A world whose runner holds what `read` brings in from somewhere else."""

    def look(self) -> dict[str, tuple[bytes, ...]]:
        found = dict(fills.lookups(self.state))
        check(self.state)
        return found

    def fill(self, request: str, found: tuple[bytes, ...]) -> tuple[tuple[bytes, int], ...]:
        targets = fills.fill(self.state, request, found)
        check(self.state)
        return targets

    def read(self, request: str, targets: tuple[tuple[bytes, int], ...]) -> None:
        """The transfer: writes into the blocks what the keys stand for."""
        asked = self.runner.requests[request]
        keys = IDENTITY.keys(asked)
        for key, block in targets:
            for offset in range(4):
                position = 4 * keys.index(key) + offset
                self.runner.kv[block, offset] = self.runner.history(request, position)

    def filled(self, request: str, targets: tuple[tuple[bytes, int], ...]) -> None:
        self.read(request, targets)
        fills.filled(self.state, request, [key for key, _ in targets])
        check(self.state)

    def give_up(self, request: str) -> None:
        fills.give_up(self.state, request)
        check(self.state)


def test_a_hit_is_read_instead_of_computed() -> None:
    world = Peers()
    world.add(member(0), lookup=True)
    assert world.schedule().tokens == 0
    keys = IDENTITY.keys(member(0))[:8]
    assert IDENTITY.keys(member(0))[8:] and world.look() == {
        "m00": (*keys, IDENTITY.keys(member(0))[8])
    }
    assert world.look() == {}
    targets = world.fill("m00", keys)
    assert [key for key, _ in targets] == list(keys)
    assert world.schedule().tokens == 0
    world.filled("m00", targets[3:])
    assert world.schedule().tokens == 0
    world.filled("m00", targets[:3])
    plan = world.schedule()
    assert [(chunk.start, chunk.stop) for chunk in plan.chunks] == [(32, 37)]
    world.finish_step(plan)
    world.run()
    assert world.said("m00") == answer(member(0))
    assert world.ended["m00"].cached_tokens == 32


def test_a_lookup_holds_nobody_up() -> None:
    world = Peers()
    world.add(member(0), lookup=True)
    world.add(ask("other", 8, answer=2), lookup=False)
    world.step()
    assert [chunk.request for chunk in world.plans[-1].chunks] == ["other"]
    world.run()
    assert list(world.ended) == ["other"]
    world.give_up("m00")
    world.run()
    assert world.said("m00") == answer(member(0)) and world.ended["m00"].cached_tokens == 0


def test_lookups_run_ahead_of_a_full_step() -> None:
    world = Peers(step_tokens=8, max_running=4)
    world.add(ask("other", 20, answer=2))
    world.add(member(0), lookup=True)
    world.step()
    assert world.plans[-1].tokens == 8 and list(world.look()) == ["m00"]


def test_together_they_look_once() -> None:
    world = Peers(blocks=200, max_running=32)
    for number in range(32):
        world.add(member(number), lookup=True)
    world.schedule()
    assert list(world.look()) == ["m00"]
    targets = world.fill("m00", IDENTITY.keys(member(0))[:8])
    world.filled("m00", targets)
    world.step()
    looks = world.look()
    assert list(looks) == [f"m{number:02}" for number in range(1, 32)]
    assert all(len(keys) == 1 for keys in looks.values())
    for request in looks:
        assert world.fill(request, ()) == ()
    world.run()
    assert len(world.ended) == 32
    assert all(ended.cached_tokens == 32 for ended in world.ended.values())


def test_what_one_did_not_find_the_others_do_not_look_for() -> None:
    world = Peers(blocks=200, max_running=8)
    for number in range(4):
        world.add(member(number), lookup=True)
    world.schedule()
    world.look()
    world.give_up("m00")
    world.run()
    assert world.look() == {}
    assert len(world.ended) == 4
    assert [ended.cached_tokens for ended in world.ended.values()] == [0, 32, 32, 32]


def test_only_a_leading_run_is_read() -> None:
    world = Peers()
    world.add(member(0), lookup=True)
    world.schedule()
    keys = IDENTITY.keys(member(0))
    targets = world.fill("m00", (keys[0], keys[1], keys[3]))
    assert [key for key, _ in targets] == [keys[0], keys[1]]
    world.filled("m00", targets)
    assert world.schedule().chunks[0].start == 8


def test_a_transfer_that_fails_half_way() -> None:
    world = Peers()
    world.add(member(0), lookup=True)
    world.schedule()
    targets = world.fill("m00", IDENTITY.keys(member(0)))
    world.filled("m00", (*targets[:2], targets[5]))
    world.give_up("m00")
    plan = world.schedule()
    assert plan.chunks[0].start == 8
    world.finish_step(plan)
    world.run()
    assert world.said("m00") == answer(member(0))
    assert world.ended["m00"].cached_tokens == 8
    assert world.state.counts().blocks_used == 0


@pytest.mark.parametrize("end", ["filled", "give_up"])
def test_blocks_that_are_read_into_stay_when_the_request_is_cancelled(end: str) -> None:
    world = Peers()
    world.add(member(0), lookup=True)
    world.add(member(1), lookup=True)
    world.schedule()
    targets = world.fill("m00", IDENTITY.keys(member(0)))
    assert scheduler.cancel(world.state, "m00")
    assert world.state.counts().blocks_used == len(targets)
    if end == "filled":
        world.filled("m00", targets)
    else:
        world.give_up("m00")
    assert "m00" not in world.state.entries and world.state.counts().blocks_used == 0
    world.schedule()
    assert len(world.look()["m01"]) == (1 if end == "filled" else 9)
    world.give_up("m01")
    world.run()
    assert world.ended["m01"].cached_tokens == (32 if end == "filled" else 0)


def test_a_cancelled_lookup_is_taken_over_by_one_who_waits() -> None:
    world = Peers()
    world.add(member(0), lookup=True)
    world.add(member(1), lookup=True)
    world.schedule()
    assert list(world.look()) == ["m00"]
    scheduler.cancel(world.state, "m00")
    world.schedule()
    assert list(world.look()) == ["m01"]


def test_late_answers_are_harmless() -> None:
    world = Peers()
    world.add(member(0), lookup=True)
    world.schedule()
    world.give_up("m00")
    assert world.fill("m00", IDENTITY.keys(member(0))) == ()
    world.give_up("m00")
    world.give_up("nobody")
    assert world.fill("nobody", ()) == ()
    with pytest.raises(ValueError, match="does not read"):
        fills.filled(world.state, "m00", [b"k"])
    world.run()
    assert world.said("m00") == answer(member(0))


def test_a_lookup_is_forgotten_with_its_request() -> None:
    world = Peers()
    world.add(member(0), lookup=True)
    world.schedule()
    scheduler.cancel(world.state, "m00")
    assert world.look() == {}


def test_what_is_here_needs_no_lookup() -> None:
    world = Peers()
    world.add(member(0))
    world.run()
    world.add(ask("short", COMMON, answer=2), lookup=True)
    world.run()
    assert world.look() == {} and world.ended["short"].cached_tokens == 28


def test_a_request_that_looks_can_be_preempted_and_looks_again() -> None:
    world = Peers(blocks=12, context_tokens=48)
    world.add(ask("low", 30, answer=2, priority=5), lookup=True)
    world.schedule()
    assert list(world.look()) == ["low"]
    keys = IDENTITY.keys(ask("low", 30))
    world.fill("low", keys[:3])
    world.add(ask("urgent", 44, answer=2, priority=0))
    assert world.schedule().tokens == 0
    world.give_up("low")
    world.step()
    assert [chunk.request for chunk in world.plans[-1].chunks] == ["urgent"]
    world.run()
    assert list(world.look()) == ["low"]
    world.give_up("low")
    world.run()
    assert list(world.ended) == ["urgent", "low"]


def test_one_that_found_no_blocks_left_does_not_take_those_of_one_before_it() -> None:
    world = Peers(blocks=8, context_tokens=32)
    world.add(ask("a", 8, answer=24))
    world.step()
    world.add(ask("b", 13, answer=2), lookup=True)
    world.step()
    assert list(world.look()) == ["b"]
    while world.state.counts().blocks_free:
        world.step()
    world.give_up("b")
    world.step()
    assert world.plans[-1].chunks == () and world.plans[-1].preempted == ()
    world.run()
    assert list(world.ended) == ["a", "b"]
    assert world.ended["a"].preemptions == 0


def test_who_waits_for_a_lookup_is_first_when_that_one_yields_its_room() -> None:
    """`low` looks for what `urgent` waits for; `middle` takes the room of `low`, and so wakes
    `urgent`, which takes it from `middle` before that has begun.
    """
    world = Peers(blocks=12, context_tokens=48)
    world.add(ask("low", COMMON, answer=2, priority=9), lookup=True)
    world.schedule()
    world.add(ask("urgent", COMMON[:20], answer=2, priority=0), lookup=True)
    world.schedule()
    assert world.state.counts().running == 1
    world.add(ask("middle", 40, answer=2, priority=5))
    world.step()
    assert list(world.look()) == ["urgent"]
    world.give_up("urgent")
    for _ in range(20):
        world.step()
        for request in world.look():
            world.give_up(request)
    assert list(world.ended) == ["urgent", "middle", "low"]
