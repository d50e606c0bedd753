"""Peers whose processes cannot be had, do not come so far that they serve, or die: by played ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from silva.serving import supervisor as supervisors
from silva.serving.supervisor import MOST_DEATHS, Supervisor

NAME = "decode-1"


class Process:
    """In place of one that was forked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._over, self._code, self._said = asyncio.Event(), 0, ""

    def end(self, code: int, said: str = "") -> None:
        self._code, self._said = code, said
        self._over.set()

    def kill(self) -> None:
        self.end(-9)

    async def ended(self) -> None:
        await self._over.wait()

    def how(self) -> tuple[int, str]:
        return self._code, self._said


class World:
    """A supervisor and what it has told; `troubles` come, one after another, instead of processes."""

    def __init__(self, start_s: float) -> None:
        self.troubles: list[Exception] = []
        self.alive: list[Process] = []
        self.started = 0
        self.ends: list[str] = []
        self.forking = threading.Event()
        self.forking.set()
        self.supervisor = Supervisor(self.start, self.on_started, self.on_ended, start_s)

    def start(self, name: str, role: str, identity: str) -> Any:
        return name

    def on_started(self, name: str, identity: str, role: str) -> None:
        self.started += 1

    def on_ended(self, name: str, why: str) -> None:
        assert name == NAME
        self.ends.append(why)

    def fork(self, main: Any, start: Any) -> Process:
        self.forking.wait()
        if self.troubles:
            raise self.troubles.pop(0)
        self.alive.append(Process(start))
        return self.alive[-1]

    def end_server(self) -> None:
        """Whoever waits for a fork, now or next, has none."""
        self.troubles.append(EOFError("EOF"))
        self.forking.set()

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            await asyncio.sleep(0.001)

    async def processes(self, count: int) -> Process:
        """The youngest, once there have been so many."""
        await self.until(lambda: len(self.alive) >= count)
        await asyncio.sleep(0.01)  # until the supervisor has it
        assert len(self.alive) == count
        return self.alive[-1]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def whole(
        scene: Callable[[World], Coroutine[None, None, None]], start_s: float = 3600.0
    ) -> None:
        async def scenes() -> None:
            world = World(start_s)
            monkeypatch.setattr(supervisors, "Forked", world.fork)
            monkeypatch.setattr(supervisors, "end_server", world.end_server)
            assert world.supervisor.add("decode") == NAME
            try:
                await scene(world)
            finally:
                world.forking.set()
                await world.supervisor.stop(within_s=0.0)
            assert world.supervisor.names("decode") == []
            assert len(world.ends) == world.started

        monkeypatch.setattr(supervisors, "FIRST_PAUSE_S", 0.001)
        asyncio.run(asyncio.wait_for(scenes(), 60))

    return whole


TROUBLES = (
    OSError(24, "Too many open files"),
    BlockingIOError(11, "again"),
    EOFError("EOF"),
    KeyError(1),
)


def test_a_process_that_cannot_be_had_is_tried_again(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        w.troubles += TROUBLES
        await w.processes(1)
        assert w.started == 5
        assert w.ends == ["", "", "", ""]  # nobody waits for it meanwhile
        assert w.supervisor.names("decode") == [NAME]

    play(scene)


def test_a_first_one_that_can_never_be_had_is_given_up(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        w.troubles += [OSError(24, "Too many open files")] * 99
        await w.until(lambda: len(w.ends) == MOST_DEATHS)
        assert w.ends[-1] == "no process can be had for it (Too many open files)"
        assert not any(w.ends[:-1])
        await w.until(lambda: not w.supervisor.names("decode"))

    play(scene)


def test_one_that_has_served_is_tried_for_ever(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        first = await w.processes(1)
        w.supervisor.serves(NAME)
        w.troubles += [OSError(11, "again")] * (MOST_DEATHS + 1)
        first.end(1)
        await w.processes(2)
        assert not any(w.ends)
        assert len(w.ends) == MOST_DEATHS + 2

    play(scene)


def test_one_that_is_not_wanted_is_not_tried_again(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(w: World) -> None:
        monkeypatch.setattr(supervisors, "FIRST_PAUSE_S", 3600.0)
        w.troubles += [OSError(11, "again")]
        await w.until(lambda: len(w.ends) == 1)
        assert w.supervisor.names("decode") == [NAME]
        w.supervisor.let_go(NAME)
        assert w.supervisor.names("decode") == []

    play(scene)


def test_a_process_that_does_not_come_to_serve_is_replaced(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(w: World) -> None:
        monkeypatch.setattr(supervisors, "end_server", lambda: None)  # forks may be as late here
        await w.until(lambda: len(w.ends) == MOST_DEATHS)
        assert not any(w.ends[:-1])
        times = f"it has ended {MOST_DEATHS} times before it could serve"
        assert w.ends[-1] == f"{times} (not within 0.001 s: see serve.start_s)"

    play(scene, start_s=0.001)


def test_only_what_was_late_is_said_to_have_been(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        for count in range(1, MOST_DEATHS + 1):
            process = await w.processes(count)
            if count < MOST_DEATHS:
                late(w, process)
            else:
                process.end(3)
        await w.until(lambda: len(w.ends) == MOST_DEATHS)
        times = f"it has ended {MOST_DEATHS} times before it could serve"
        assert w.ends[-1] == f"{times} (exit code 3)"

    play(scene)


def late(w: World, process: Any) -> None:
    """The time of a process is over."""
    w.supervisor._late(w.supervisor._children[NAME], process)


def test_one_that_serves_has_all_the_time(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        first = await w.processes(1)
        w.supervisor.serves(NAME)
        late(w, first)
        await asyncio.sleep(0.01)
        assert not w.ends
        first.end(1)
        late(w, await w.processes(2))  # that it has served once does not count
        await w.processes(3)

    play(scene)


def test_one_that_serves_before_its_fork_is_known_has_too(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        w.forking.clear()
        await asyncio.sleep(0.01)
        w.supervisor.serves(NAME)
        w.forking.set()
        late(w, await w.processes(1))
        await asyncio.sleep(0.01)
        assert not w.ends

    play(scene)


def test_a_fork_does_not_stop_the_loop_and_can_be_called_off(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        w.forking.clear()
        await asyncio.sleep(0.01)  # returns: else nothing below is reached
        w.supervisor.let_go(NAME)
        w.supervisor.kill(NAME)
        assert not w.alive
        w.forking.set()
        await w.until(lambda: w.ends == [""])
        assert len(w.alive) == 1

    play(scene)


def test_one_can_be_ended_before_its_fork_has_begun(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        w.supervisor.kill(NAME)  # the loop has not turned since it was added
        await w.processes(2)
        assert w.ends == [""]

    play(scene)


def test_one_that_is_let_go_before_its_fork_has_begun_has_none(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        w.supervisor.let_go(NAME)
        w.supervisor.kill(NAME)
        await w.until(lambda: w.ends == [""])
        assert not w.alive
        await w.until(lambda: not w.supervisor.roles())

    play(scene)


def test_a_server_process_that_does_not_fork_is_ended(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        w.forking.clear()
        await w.until(lambda: bool(w.alive))
        assert w.ends[0] == ""
        assert w.supervisor.names("decode") == [NAME]

    play(scene, start_s=0.05)


def test_a_fork_that_does_not_come_does_not_keep_the_server_from_stopping(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(w: World) -> None:
        monkeypatch.setattr(supervisors, "CODE_S", 0.01)
        w.forking.clear()
        await asyncio.sleep(0.01)
        await w.supervisor.stop(within_s=0.0)
        assert w.ends == [""] and not w.alive

    play(scene)


def test_who_waits_for_a_process_or_leaves_is_counted(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        w.troubles += [OSError(11, "again")]
        await w.processes(1)
        w.supervisor.let_go(NAME)
        assert w.supervisor.names("decode") == []
        assert w.supervisor.roles() == {"decode": 1}
        w.alive[0].end(0)
        await w.until(lambda: not w.supervisor.roles())

    play(scene)


def test_pauses_grow_up_to_the_longest() -> None:
    pauses = [supervisors._pause_s(times) for times in (1, 2, 3, 6, 5000)]
    assert pauses == [1.0, 2.0, 4.0, 30.0, 30.0]


def test_what_is_missing_is_waited_for(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(w: World) -> None:
        first = await w.processes(1)
        w.supervisor.serves(NAME)
        monkeypatch.setattr(supervisors, "FIRST_PAUSE_S", 3600.0)
        monkeypatch.setattr(supervisors, "LONGEST_PAUSE_S", 3600.0)
        caplog.clear()
        first.end(1, "no memory")
        await w.until(lambda: w.ends == [""])
        await asyncio.sleep(0.01)
        assert len(w.alive) == w.started == 1
        said = [record.getMessage() for record in caplog.records]
        assert said == [f"{NAME} cannot start (no memory), next try in 3600 s"]
        w.supervisor.let_go(NAME)

    play(scene)


def test_what_it_said_last_is_why_it_cannot_start(play: Callable[..., None]) -> None:
    async def scene(w: World) -> None:
        first = await w.processes(1)
        w.supervisor.serves(NAME)
        first.end(1, "no memory")  # it may come back
        (await w.processes(2)).end(3)
        for count in range(3, MOST_DEATHS + 1):
            (await w.processes(count)).end(1, "no memory")
        await w.until(lambda: len(w.ends) == MOST_DEATHS)
        assert w.ends == [""] * (MOST_DEATHS - 1) + ["no memory"]

    play(scene)
