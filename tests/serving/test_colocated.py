"""The colocated server over a thread that is played: how requests end, and as what they count."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from silva.control.request import Output, Request, SamplingParams
from silva.serving.backend import UnavailableError
from silva.serving.colocated import Colocated
from silva.serving.config import ServeConfig
from silva.serving.engine.engine import StepError
from silva.serving.engine.loop import StoppedError


class Thread:
    """Takes every request but `late`, and computes nothing."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(
            state=SimpleNamespace(settings=SimpleNamespace(context_tokens=99))
        )
        self.ears: dict[str, tuple[Any, Any]] = {}
        self.cancelled: list[str] = []

    def submit(self, request: Request, on_output: Any, on_error: Any) -> None:
        if request.id == "late":
            raise StoppedError("the server is stopping")
        self.ears[request.id] = (on_output, on_error)

    def cancel(self, request: str) -> None:
        self.cancelled.append(request)


def test_how_requests_end_is_counted() -> None:
    async def scene() -> None:
        backend, thread = Colocated(ServeConfig(), Path("nowhere"), []), Thread()
        backend._thread = thread  # type: ignore[assignment]

        async def ask(name: str) -> None:
            async for _ in backend.generate(Request(name, (1, 2), SamplingParams(max_tokens=4))):
                pass

        names = ("whole", "stopped", "left", "broken", "late")
        asked = {name: asyncio.create_task(ask(name)) for name in names}
        await asyncio.sleep(0)
        for name, (say, _) in thread.ears.items():
            say(Output(name, (1,), finish="length" if name == "whole" else None))
        thread.ears["broken"][1](StepError("the step failed"))
        backend.complete("stopped")  # its text has reached a stop string
        backend.complete("unknown")
        for _ in range(5):
            await asyncio.sleep(0)
        for name in ("stopped", "left"):
            asked[name].cancel()
        for name in ("broken", "late"):
            with pytest.raises(UnavailableError):
                await asked[name]
        await asyncio.gather(*asked.values(), return_exceptions=True)
        assert sorted(thread.cancelled) == ["late", "left", "stopped"]
        counters = {"requests": 5, "finished": 2, "cancelled": 1, "failed": 2, "tokens": 4}
        assert backend._counters == counters
        assert backend._ends == {} and backend._waiting == 0

    asyncio.run(scene())
