"""A hub alone: scripted peers in place of processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from silva.control.request import FinishReason, Output, Request, SamplingParams
from silva.serving.hub.hub import Hub
from silva.serving.hub.settings import HubSettings
from silva.serving.wire.messages import Hello, Load, Message, Prefilled, Tokens

Sent = list[tuple[str, Message]]


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Stage:
    """A hub, what it sent, and short ways to play its peers."""

    hub: Hub
    sent: Sent
    clock: Clock
    heard: dict[str, list[Output]] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def add(self, name: str, blocks: int = 100, most_running: int = 0) -> None:
        role = name.split("-")[0]
        self.hub.expect(name, role)  # type: ignore[arg-type]
        load = Load(blocks_free=blocks, blocks_total=blocks, most_running=most_running)
        self.hub.receive(name, Hello(name, role, pid=1, address=f"at {name}", load=load))  # type: ignore[arg-type]

    async def ask(self, name: str, prompt: int = 20, most: int = 4, priority: int = 0) -> None:
        request = Request(
            name, tuple(range(prompt)), SamplingParams(max_tokens=most), priority=priority
        )
        self.heard[name] = []

        async def listen() -> None:
            async for output in self.hub.generate(request):
                self.heard[name].append(output)

        self.tasks.append(asyncio.create_task(listen()))
        await settle()

    def of(self, kind: type[Message]) -> list[tuple[str, Message]]:
        return [(name, m) for name, m in self.sent if isinstance(m, kind)]

    def prefilled(self, request: str, token: int = 7, attempt: int = 0, name: str = "") -> None:
        name = name or self.hub.flights[request].prefill
        message = Prefilled(request, attempt, token, None, (), 0, 1.0, 2.0)
        self.hub.receive(name, message)

    def tokens(
        self,
        name: str,
        request: str,
        *tokens: int,
        attempt: int = 0,
        end: FinishReason | None = None,
    ) -> None:
        self.hub.receive(name, Tokens((attempt,), (Output(request, tokens, finish=end),)))

    def said(self, request: str) -> list[int]:
        return [t for output in self.heard[request] for t in output.tokens]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def play(scene: Callable[[Stage], Coroutine[None, None, None]], **settings: float) -> Stage:
    """Run one scene on a stage with a prefill and a decode peer."""

    async def whole() -> Stage:
        sent: Sent = []
        clock = Clock()
        hub = Hub(HubSettings(**settings), lambda name, m: sent.append((name, m)), clock)  # type: ignore[arg-type]
        stage = Stage(hub, sent, clock)
        stage.add("prefill-1")
        stage.add("decode-1")
        await scene(stage)
        await settle()
        for task in stage.tasks:
            task.cancel()
        await asyncio.gather(*stage.tasks, return_exceptions=True)
        assert not hub.flights
        assert all(not p.requests for p in hub.peers.values())
        return stage

    return asyncio.run(whole())
