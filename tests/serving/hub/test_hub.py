"""The hub alone: requests from their arrival to their end."""

from __future__ import annotations

import pytest
from hub_stage import Stage, play, settle

from silva.serving.backend import BusyError, UnavailableError, UnservableError
from silva.serving.wire.messages import (
    Cancel,
    Failed,
    HandOver,
    Hold,
    Joined,
    Members,
    Prefill,
    Rejected,
    Reserve,
)


def test_a_request_is_reserved_and_computed_at_once_then_handed_over() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a", most=3)
        assert {type(m) for _, m in s.sent} >= {Reserve, Prefill}
        s.prefilled("a", token=7)
        assert [name for name, _ in s.of(HandOver)] == ["decode-1"]
        s.hub.receive("decode-1", Joined("a", 0))
        assert ("prefill-1", Cancel("a", 0)) in s.sent
        s.tokens("decode-1", "a", 8)
        s.tokens("decode-1", "a", 9, end="length")
        await settle()
        assert s.said("a") == [7, 8, 9]
        assert s.heard["a"][-1].finish == "length"
        phases = s.heard["a"][-1].phases
        assert (phases.prefill_start_s, phases.prefill_done_s) == (1.0, 2.0)
        assert phases.joined_s and phases.first_decode_s and phases.finished_s

    stage = play(scene)
    assert stage.hub.counters["finished"] == 1
    assert ("decode-1", Cancel("a", 0)) not in stage.sent


def test_one_token_needs_no_decode_peer() -> None:
    async def scene(s: Stage) -> None:
        s.hub.lost("decode-1")
        await s.ask("a", most=1)
        s.prefilled("a", token=5)
        await settle()
        assert s.said("a") == [5]
        assert s.heard["a"][-1].finish == "length"

    assert not play(scene).of(Reserve)


def test_the_least_loaded_peer_takes_it() -> None:
    async def scene(s: Stage) -> None:
        s.add("decode-2")
        s.add("prefill-2")
        for name in "abcd":
            await s.ask(name)
        assert [n for n, _ in s.of(Prefill)] == ["prefill-1", "prefill-2"] * 2
        assert [n for n, _ in s.of(Reserve)] == ["decode-1", "decode-2"] * 2

    play(scene)


@pytest.mark.parametrize("when", ["prefill", "handover", "decode"])
@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_lost_peer_loses_nothing(when: str, role: str) -> None:
    async def scene(s: Stage) -> None:
        s.add("prefill-2")
        s.add("decode-2")
        await s.ask("a", most=4)
        given = []
        if when != "prefill":
            s.prefilled("a", token=7)
            given = [7]
        if when == "decode":
            s.hub.receive("decode-1", Joined("a", 0))
            s.tokens("decode-1", "a", 8)
            given = [7, 8]
        s.sent.clear()
        s.hub.lost(f"{role}-1")
        again = [m.request for _, m in s.of(Prefill) if isinstance(m, Prefill)]
        if when == "decode" and role == "prefill":
            assert not again  # the blocks were read: nobody needs that peer any more
            s.tokens("decode-1", "a", 9, end="stop")
            await settle()
            assert s.said("a") == [*given, 9]
            return
        assert [r.attempt for r in again] == [1]
        assert again[0].emitted == tuple(given)
        s.tokens("decode-1", "a", 99)  # late words of the first attempt
        s.prefilled("a", token=9, attempt=1)
        s.tokens(s.hub.flights["a"].decode, "a", 10, attempt=1, end="stop")
        await settle()
        assert s.said("a") == [*given, 9, 10]

    play(scene)


def test_blocks_are_to_be_held_until_the_decode_peer_has_them() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        await s.ask("b")
        s.hub.tick()
        assert not s.of(Hold)
        s.prefilled("a")
        s.hub.tick()
        assert s.of(Hold) == [("prefill-1", Hold((("a", 0),)))]
        s.prefilled("b")
        s.hub.tick()
        assert s.of(Hold)[1:] == [("prefill-1", Hold((("a", 0), ("b", 0))))]
        for name in ("a", "b"):
            s.hub.receive("decode-1", Joined(name, 0))
        s.hub.tick()
        assert len(s.of(Hold)) == 2

    play(scene)


def test_a_spoilt_hand_over_starts_again() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        s.prefilled("a")
        s.hub.receive("decode-1", Rejected("a", 0, "checksum"))
        assert s.hub.flights["a"].request.attempt == 1
        assert s.hub.flights["a"].request.emitted == (7,)

    play(scene)


def test_a_request_that_always_fails_ends_with_an_error() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        for attempt in range(3):
            s.hub.receive("prefill-1", Rejected("a", attempt, "why"))
        with pytest.raises(UnavailableError, match="too often"):
            await s.tasks[0]

    play(scene, most_attempts=3)


def test_a_request_that_nobody_can_serve_ends_with_its_reason() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        s.hub.receive("prefill-1", Failed("a", 0, "the grammar contradicts itself"))
        with pytest.raises(UnservableError, match="contradicts"):
            await s.tasks[0]
        assert ("decode-1", Cancel("a", 0)) in s.sent

    play(scene)


def test_who_leaves_frees_everything() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        s.prefilled("a")
        s.tasks[0].cancel()
        await settle()
        assert ("prefill-1", Cancel("a", 0)) in s.sent
        assert ("decode-1", Cancel("a", 0)) in s.sent

    assert play(scene).hub.counters["cancelled"] == 1


def test_more_than_fit_wait_in_order_of_priority() -> None:
    async def scene(s: Stage) -> None:
        for name, priority in (("a", 0), ("b", 5), ("c", 1)):
            await s.ask(name, prompt=1000, priority=priority)  # 63 of 100 blocks each
        assert len(s.of(Prefill)) == 1
        s.prefilled("a")
        s.tokens("decode-1", "a", 1, end="stop")
        await settle()
        taken = [m.request.id for _, m in s.of(Prefill) if isinstance(m, Prefill)]
        assert taken == ["a", "c"]

    play(scene)


def test_a_decode_peer_is_given_no_more_than_its_target_allows() -> None:
    async def scene(s: Stage) -> None:
        s.hub.lost("decode-1")
        s.add("decode-2", most_running=2)
        for name in "abc":
            await s.ask(name)
        assert len(s.of(Reserve)) == 2

    play(scene)


def test_too_many_waiting_are_told_so() -> None:
    async def scene(s: Stage) -> None:
        s.hub.lost("decode-1")
        await s.ask("a")
        await s.ask("b")
        with pytest.raises(BusyError):
            await s.tasks[1]

    play(scene, most_waiting=1)


def test_cache_members_are_told_as_they_come_and_go() -> None:
    async def scene(s: Stage) -> None:
        s.add("cache-1")
        s.add("cache-2")
        s.hub.lost("cache-1")
        told = [m.caches for name, m in s.of(Members) if name == "prefill-1"]
        names = [[c.name for c in caches] for caches in told if isinstance(caches, tuple)]
        assert names == [[], ["cache-1"], ["cache-1", "cache-2"], ["cache-2"]]

    play(scene)


def test_a_draining_peer_finishes_and_gets_nothing_new() -> None:
    async def scene(s: Stage) -> None:
        s.add("decode-2")
        await s.ask("a")
        s.hub.drain("decode-1")
        await s.ask("b")
        assert [n for n, _ in s.of(Reserve)] == ["decode-1", "decode-2"]
        s.prefilled("a")
        s.tokens("decode-1", "a", 3, end="stop")
        await s.hub.drained("decode-1", within_s=1.0)
        assert not s.hub.peers["decode-1"].requests

    play(scene)


def test_what_does_not_drain_in_time_goes_elsewhere() -> None:
    async def scene(s: Stage) -> None:
        s.add("decode-2")
        await s.ask("a")
        s.hub.drain("decode-1")
        await s.hub.drained("decode-1", within_s=-1.0)
        assert s.hub.flights["a"].decode == "decode-2"

    play(scene)
