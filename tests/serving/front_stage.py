"""A front whose peers are played: no process, no socket, a clock that stands until it is set."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from silva.config import build
from silva.control.request import Output, Request, SamplingParams
from silva.errors import SilvaError
from silva.serving import front as fronts
from silva.serving.backend import ModelCard
from silva.serving.config import ServeConfig
from silva.serving.front import Front
from silva.serving.wire.messages import Hello, Load, Message, Prefilled, Role, Status, Tokens


class Processes:
    """In place of the supervisor: peers that exist by name only."""

    def __init__(
        self,
        make_start: Any,
        started: Callable[[str, str, Role], None],
        ended: Callable[[str, str], None],
        start_s: float,
    ) -> None:
        self._started, self._ended = started, ended
        self.wanted: list[tuple[str, Role]] = []
        self.leaving: list[tuple[str, Role]] = []
        self.killed: list[str] = []
        self._numbers: dict[Role, int] = {}

    def add(self, role: Role) -> str:
        self._numbers[role] = self._numbers.get(role, 0) + 1
        name = f"{role}-{self._numbers[role]}"
        self.wanted.append((name, role))
        self._started(name, f"{name}/x", role)
        return name

    def serves(self, name: str) -> None:
        pass

    def let_go(self, name: str) -> None:
        self.leaving += [each for each in self.wanted if each[0] == name]
        self.wanted = [each for each in self.wanted if each[0] != name]

    def kill(self, name: str) -> None:
        self.killed.append(name)

    def names(self, role: Role) -> list[str]:
        return [name for name, of in self.wanted if of == role]

    def present(self) -> list[str]:
        return [name for name, _ in (*self.wanted, *self.leaving)]

    def roles(self) -> Counter[Role]:
        return Counter(role for _, role in (*self.wanted, *self.leaving))

    def left(self, name: str, why: str = "") -> None:
        """The process of a peer has ended; `why` it cannot start."""
        self.leaving = [each for each in self.leaving if each[0] != name]
        self._ended(name, why)

    async def stop(self, within_s: float) -> None:
        self.wanted.clear()


class Wire:
    """In place of the sockets: remembers what was sent to whom."""

    def __init__(self, where: str, receive: Any) -> None:
        self.sent: list[tuple[str, Message]] = []

    def send(self, identity: str, message: Message) -> None:
        self.sent.append((identity.partition("/")[0], message))

    async def close(self) -> None:
        pass


class Stage:
    """A front that is open, and short ways to play its peers."""

    def __init__(self, front: Front, failures: list[SilvaError]) -> None:
        self.front, self.failures = front, failures
        self.now_s = 100.0
        front.hub._clock = front._roles._clock = lambda: self.now_s

    @property
    def processes(self) -> Processes:
        processes: Any = self.front._supervisor
        return processes

    @property
    def wire(self) -> Wire:
        wire: Any = self.front._centre
        return wire

    def hello(self, *names: str, blocks: int = 100, most_running: int = 8) -> None:
        for name in names:
            role: Any = name.split("-")[0]
            load = Load(blocks_free=blocks, blocks_total=blocks, most_running=most_running)
            self.hear(name, Hello(name, role, 1, load=load))

    def hear(self, name: str, message: Any) -> None:
        self.front._receive(f"{name}/x", message)

    def report(self, name: str, load: Load, **counters: float) -> None:
        self.hear(name, Status(load, counters))

    def prefilled(self, request: str, name: str) -> None:
        self.hear(name, Prefilled(request, 0, 1, None, (), 0, 1.0, 2.0))

    def token(self, request: str, name: str, finish: Any = None) -> None:
        self.hear(name, Tokens((0,), (Output(request, (2,), finish=finish),)))

    def ask(self, name: str, prompt: int = 20, most: int = 8) -> asyncio.Task[list[int]]:
        request = Request(name, tuple(range(prompt)), SamplingParams(max_tokens=most))

        async def listen() -> list[int]:
            return [t async for o in self.front.generate(request) for t in o.tokens]

        return asyncio.create_task(listen())

    def states(self) -> dict[str, str]:
        return {peer.name: peer.state for peer in self.front.status().peers}

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def play(
    monkeypatch: pytest.MonkeyPatch,
    scene: Callable[[Stage], Coroutine[None, None, None]],
    room_bytes: int = 1 << 50,
    **settings: Any,
) -> None:
    """Run a scene on an open front: two prefill and two decode peers unless told otherwise, on a
    machine that always has so much memory left.
    """
    monkeypatch.setattr(fronts, "available_bytes", lambda: room_bytes)
    monkeypatch.setattr(fronts, "Supervisor", Processes)
    monkeypatch.setattr(fronts, "Centre", Wire)
    config = build(ServeConfig, {"pools": {"prefill": 2, "decode": 2}, **settings}, "test")

    async def whole() -> None:
        failures: list[SilvaError] = []
        front = Front(config, Path("nowhere"), [ModelCard("tiny", 0, 256)], failures.append)
        await front.open()
        try:
            await scene(Stage(front, failures))
        finally:
            await front.close(grace_s=0.0)

    asyncio.run(whole())
