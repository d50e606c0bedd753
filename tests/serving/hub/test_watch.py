"""Peers that say nothing, or whose step does not end."""

from __future__ import annotations

import pytest
from hub_stage import Stage, play, settle

from silva.serving.backend import UnavailableError
from silva.serving.hub.watch import stuck
from silva.serving.wire.messages import Beat, Cancel, Joined, Load, Status


def test_a_silent_peer_is_replaced_and_refused_when_it_wakes() -> None:
    async def scene(s: Stage) -> None:
        s.add("decode-2")
        await s.ask("a")
        s.prefilled("a")
        s.clock.now += 10
        for name in ("prefill-1", "decode-2"):
            s.hub.receive(name, Status(Load(blocks_total=100), {}))
        s.hub.tick()
        assert s.hub.flights["a"].decode == "decode-2"
        s.tokens("decode-1", "a", 99)
        await settle()
        assert s.said("a") == [7]
        assert s.hub.counters["refused_late"] == 1
        assert s.hub.peers["decode-1"].usable
        assert ("decode-1", Cancel("a", 0)) in s.sent

    play(scene)


def test_a_peer_that_only_beats_is_not_silent_and_is_stuck_when_its_step_does_not_end() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        for second in range(1, 11):
            s.clock.now += 1
            s.hub.receive("prefill-1", Beat(float(second)))
            s.hub.receive("decode-1", Beat(0.0))
            s.hub.tick()
        assert not any(peer.silent for peer in s.hub.peers.values())
        assert s.hub.counters["retries"] == 0
        assert [peer.name for peer in stuck(s.hub.peers.values(), 9.5)] == ["prefill-1"]
        assert stuck(s.hub.peers.values(), 10.0) == []
        s.hub.receive("prefill-1", Beat(0.0))
        assert stuck(s.hub.peers.values(), 9.5) == []

    play(scene)


def end_stuck(s: Stage, *names: str) -> None:
    """The front ends these peers, whose steps do not end, and starts others in their places."""
    for name in names:
        s.hub.stuck(name)
        assert not s.hub.peers[name].usable
        s.hub.lost(name)
        s.add(name)


def test_a_request_whose_steps_do_not_end_is_given_up_soon() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        end_stuck(s, "prefill-1")
        s.prefilled("a", attempt=1)
        s.hub.receive("decode-1", Joined("a", 1))
        await s.ask("b")
        end_stuck(s, "decode-1")  # computes "a" alone: "b" is on its way only
        assert (s.hub.flights["a"].stuck_ends, s.hub.flights["b"].stuck_ends) == (2, 0)
        end_stuck(s, "prefill-1")
        with pytest.raises(UnavailableError, match=r"3 peers.*did not end"):
            await s.tasks[0]
        assert s.hub.flights["b"].stuck_ends == 1
        assert s.hub.counters["failed"] == 1

    play(scene)


def test_who_waits_to_be_read_is_not_to_blame_for_a_step_that_does_not_end() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        s.prefilled("a")
        end_stuck(s, "prefill-1")
        assert s.hub.flights["a"].stuck_ends == 0
        assert s.hub.flights["a"].request.attempt == 1

    play(scene)


def test_a_peer_that_is_killed_is_not_what_stuck_ends_count() -> None:
    async def scene(s: Stage) -> None:
        await s.ask("a")
        for _ in range(5):
            s.hub.lost("prefill-1")
            s.add("prefill-1")
        assert s.hub.flights["a"].stuck_ends == 0
        assert s.hub.flights["a"].request.attempt == 5

    play(scene)


def test_a_peer_that_reports_is_between_two_steps() -> None:
    async def scene(s: Stage) -> None:
        s.hub.receive("prefill-1", Beat(7.0))
        s.hub.receive("prefill-1", Status(Load(), {}))
        assert s.hub.peers["prefill-1"].busy_s == 0.0

    play(scene)
