"""What operators may ask of a running server, and what is refused: nobody is left without a peer."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path

import pytest
from front_stage import Stage, play

from silva.errors import ServingError
from silva.serving.api.errors import as_api_error
from silva.serving.backend import (
    ChangeRefusedError,
    UnavailableError,
    UnknownPeerError,
)
from silva.serving.config import ServeConfig
from silva.serving.front import Front
from silva.serving.sockets import sockets_folder
from silva.serving.wire.messages import Beat, Stop

ALL = ("prefill-1", "prefill-2", "decode-1", "decode-2", "cache-1")


async def refused(change: Awaitable[None], match: str) -> None:
    """The change is a 409 that says what to do instead."""
    with pytest.raises(ChangeRefusedError, match=match) as caught:
        await change
    assert caught.value.remedy
    answer = as_api_error(caught.value)
    assert (answer.status, answer.code) == (409, "change_refused")
    assert caught.value.remedy in answer.body()["error"]["message"]


def test_draining_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await s.front.drain("decode-1")
        await refused(s.front.drain("decode-1"), "decode-1 is leaving already")
        await refused(s.front.switch("decode-1", "prefill"), "decode-1 is leaving already")
        await s.settle()
        assert s.states()["decode-1"] == "draining"
        assert [name for name, m in s.wire.sent if isinstance(m, Stop)] == ["decode-1"]
        s.processes.left("decode-1")
        with pytest.raises(UnknownPeerError):
            await s.front.drain("decode-1")

    play(monkeypatch, scene)


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_the_last_of_a_role_stays(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    other = {"prefill": "decode", "decode": "prefill"}[role]

    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await s.front.drain(f"{role}-1")
        await refused(s.front.drain(f"{role}-2"), f"{role}-2 is the last {role} peer")
        await refused(s.front.switch(f"{role}-2", other), "is the last")
        assert s.states()[f"{role}-2"] == "ready"
        assert len(s.processes.names(other)) == 2  # type: ignore[arg-type]

    play(monkeypatch, scene)


def test_the_only_one_that_serves_stays_until_another_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello("prefill-1", "prefill-2", "decode-1", "cache-1")
        await refused(s.front.drain("decode-1"), "no decode peer but decode-1 serves")
        s.hello("decode-2")
        await s.front.drain("decode-1")

    play(monkeypatch, scene)


def test_cache_peers_may_all_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await s.front.drain("cache-1")
        await refused(s.front.drain("cache-1"), "is leaving already")

    play(monkeypatch, scene)


def test_a_peer_that_starts_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not hear that it has to stop, and must not serve when it is ready after all."""

    async def scene(s: Stage) -> None:
        s.hello("prefill-1", "prefill-2", "decode-1", "cache-1")
        await s.front.drain("decode-2")
        assert s.processes.killed == ["decode-2"]
        s.hello("decode-2")
        assert s.states()["decode-2"] == "draining"

    play(monkeypatch, scene)


def test_a_peer_that_does_not_leave_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silva.serving.front.LEAVE_S", 0.0)

    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await s.front.drain("decode-2")
        assert s.processes.killed == []
        while not s.processes.killed:
            await asyncio.sleep(0)
        assert s.processes.killed == ["decode-2"]

    play(monkeypatch, scene)


def test_switching(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await refused(s.front.switch("decode-1", "decode"), "decode-1 is a decode peer already")
        with pytest.raises(UnknownPeerError, match="no role 'both'"):
            await s.front.switch("decode-1", "both")
        with pytest.raises(UnknownPeerError, match="no peer 'decode-7'"):
            await s.front.switch("decode-7", "prefill")
        await s.front.switch("decode-1", "prefill")
        assert s.states()["decode-1"] == "draining"
        assert s.states()["prefill-3"] == "starting"
        assert s.processes.names("decode") == ["decode-2"]

    play(monkeypatch, scene)


@pytest.mark.parametrize(
    "roles", [{"decode": 0}, {"prefill": 0}, {"decode": 65}, {"cache": 65}, {"cache": -1}]
)
def test_scaling_beyond_limits_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, roles: dict[str, int]
) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        before = s.states()
        await refused(s.front.scale({"prefill": 3, **roles}), "peers")
        with pytest.raises(UnknownPeerError, match="no role 'both'"):
            await s.front.scale({"prefill": 3, "both": 1})
        assert s.states() == before

    play(monkeypatch, scene)


def test_no_role_gets_more_than_the_limit_by_switching(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await s.front.scale({"prefill": 64})
        await refused(s.front.switch("decode-1", "prefill"), "no more prefill peers")
        assert s.states()["decode-1"] == "ready"

    play(monkeypatch, scene)


def test_memory_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        before = s.states()
        await refused(
            s.front.scale({"prefill": 3, "cache": 2}), r"take 7\.00 GiB, 6\.50 GiB can be"
        )
        assert s.states() == before
        await s.front.switch("decode-1", "prefill")
        # who leaves has its memory until then
        await refused(s.front.scale({"cache": 2}), "5 computing peers and .* 2 cache peers")
        s.hello("prefill-3")
        await refused(s.front.switch("prefill-3", "decode"), "6 computing peers")
        s.processes.left("decode-1")
        await s.front.scale({"prefill": 2, "cache": 2})
        await s.front.scale({"cache": 1})

    play(monkeypatch, scene, room_bytes=13 << 29)


def test_the_memory_of_a_peer_that_waits_for_a_process_is_not_given_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        s.processes.left("decode-2")
        assert "decode-2" not in s.states()
        await refused(s.front.scale({"prefill": 4}), "6 computing peers")
        await s.front.scale({"decode": 1})
        s.processes.leaving.clear()  # it is not tried again: it had no process that could end
        await s.front.scale({"prefill": 4})

    play(monkeypatch, scene, room_bytes=13 << 29)


def test_what_others_took_meanwhile_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        monkeypatch.setattr("silva.serving.front.available_bytes", lambda: 1 << 29)
        await refused(s.front.scale({"decode": 3}), r"take 1\.00 GiB, 0\.50 GiB can be had")

    play(monkeypatch, scene)


def test_a_peer_that_no_process_can_be_had_for_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The supervisor tries again later; the hub does not know it until then."""

    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        s.processes.left("decode-2")
        await refused(s.front.drain("decode-1"), "no decode peer but decode-1 serves")
        with pytest.raises(UnknownPeerError):
            await s.front.drain("decode-2")
        await s.front.scale({"decode": 1})
        assert s.processes.names("decode") == ["decode-1"]

    play(monkeypatch, scene)


def test_nobody_is_waited_for_where_no_process_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        for name in ("decode-1", "decode-2"):
            s.processes.left(name)
        with pytest.raises(UnavailableError, match="no prefill or no decode peer is left"):
            await s.ask("a")

    play(monkeypatch, scene)


def test_a_defect_does_not_end_the_care_for_the_peers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("silva.serving.front.TICK_S", 0.0)

    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        ticks: list[None] = []

        def broken() -> None:
            ticks.append(None)
            raise KeyError("decode-9")

        monkeypatch.setattr(s.front.hub, "tick", broken)
        while len(ticks) < 3:
            await asyncio.sleep(0)

    play(monkeypatch, scene)
    assert "while looking after the peers" in caplog.text


def test_scaling_down_takes_those_that_do_not_serve_then_the_youngest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(s: Stage) -> None:
        await s.front.scale({"decode": 4})
        s.hello("decode-2", "decode-4")
        await s.front.scale({"decode": 2})
        assert s.processes.names("decode") == ["decode-2", "decode-4"]
        await s.front.scale({"decode": 1})
        assert s.processes.names("decode") == ["decode-2"]
        await s.front.scale({"decode": 1})
        assert s.processes.names("decode") == ["decode-2"]

    play(monkeypatch, scene)


def test_a_server_that_stops_is_changed_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await s.front.close(grace_s=0.0)
        for change in (
            s.front.scale({"decode": 3}),
            s.front.drain("decode-1"),
            s.front.switch("decode-1", "prefill"),
        ):
            with pytest.raises(UnavailableError, match="stopping"):
                await change
        assert s.processes.names("decode") == []

    play(monkeypatch, scene)


def test_a_peer_of_the_start_that_cannot_serve_ends_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(s: Stage) -> None:
        s.hello("prefill-1", "decode-1")
        assert s.front.ready()
        waiting = s.ask("a")
        await s.settle()
        s.processes.left("prefill-2")  # it died, and another takes its place
        assert not s.failures
        s.processes.left("cache-1", "/full: no space; free some")
        assert [str(f) for f in s.failures] == ["cache-1: cannot start: /full: no space; free some"]
        assert not s.front.ready()
        with pytest.raises(UnavailableError, match="could not start"):
            await waiting
        with pytest.raises(UnavailableError, match="stopping"):
            await s.ask("b")

    play(monkeypatch, scene)


def test_one_that_fails_later_is_told_of_once_and_the_others_serve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        await s.front.scale({"decode": 3})
        for name in ("cache-1", "decode-3"):
            s.processes.left(name, "no memory; ask for less")
        assert s.front.ready() and not s.failures

    play(monkeypatch, scene)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"{name} cannot start, and is not tried again: no memory; ask for less"
        for name in ("cache-1", "decode-3")
    ]


def test_a_step_that_does_not_end_ends_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        s.front._receive("decode-1/x/heart", Beat(99.0))
        s.front._receive("decode-2/x/heart", Beat(101.0))
        await s.front._tick()
        assert s.processes.killed == ["decode-2"]
        assert s.states()["decode-2"] == "draining"  # until it is gone: it gets nothing more

    play(monkeypatch, scene, stuck_s=100.0)


def test_how_requests_end_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        s.hello(*ALL)
        asked = {name: s.ask(name) for name in ("whole", "stopped", "left")}
        await s.settle()
        for name in asked:
            flight = s.front.hub.flights[name]
            s.prefilled(name, flight.prefill)
        await s.settle()
        s.token("whole", s.front.hub.flights["whole"].decode, "length")
        s.front.complete("stopped")  # its text has reached a stop string
        s.front.complete("unknown")
        for name in ("stopped", "left"):
            asked[name].cancel()
        given_up = s.ask("given-up")
        await s.settle()
        s.front.hub.end("no more")
        with pytest.raises(UnavailableError, match="no more"):
            await given_up
        counters = s.front.status().counters
        ends = {name: counters[name] for name in ("requests", "finished", "cancelled", "failed")}
        assert ends == {"requests": 4, "finished": 2, "cancelled": 1, "failed": 1}

    play(monkeypatch, scene)


def test_sockets_need_a_short_path_and_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(ServingError, match="set TMPDIR to a shorter one"):
        sockets_folder()
    assert not list(long.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ServingError, match="no folder for sockets"):
        sockets_folder()


def test_a_front_that_could_not_open_can_be_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    async def scene() -> None:
        front = Front(ServeConfig(), tmp_path, [])
        with pytest.raises(ServingError):
            await front.open()
        await front.close(0.0)

    asyncio.run(scene())
