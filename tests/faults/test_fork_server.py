"""The process that peers are forked from dies or is stopped: peers go on, and are still replaced."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest
from serving_world import (
    all_ready,
    answer,
    answers,
    kill,
    prompts,
    request_of,
    run,
    save_model,
    server,
    settings,
    settled,
)

from silva.serving import forked, supervisor
from silva.serving.front import Front

PROMPTS = prompts(6)
TOKENS = 150


def fork_server() -> psutil.Process:
    """The one of this process."""
    children = psutil.Process().children()
    (found,) = (c for c in children if "forkserver" in " ".join(c.cmdline()))
    return found


def pids(front: Front) -> dict[str, int]:
    return {peer.name: peer.pid for peer in front.status().peers}


def test_nothing_is_lost_with_it(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")

    async def scene() -> None:
        async with server(settings(tmp_path / "kv"), model) as front:
            calm = await answers(front, PROMPTS, TOKENS)
            before = pids(front)
            asked = [
                asyncio.create_task(answer(front, request_of(f"a{n}", prompt, TOKENS)))
                for n, prompt in enumerate(PROMPTS)
            ]
            while front.status().counters["tokens"] < len(PROMPTS) * (TOKENS + 1):
                await asyncio.sleep(0.01)
            fork_server().send_signal(signal.SIGTERM)
            fork_server().kill()
            assert await asyncio.gather(*asked) == calm
            assert pids(front) == before
            assert front.status().counters["retries"] == 0
            for role in ("decode", "cache"):
                await kill(front, role)  # the next fork starts another server process
            assert await answers(front, PROMPTS, TOKENS) == calm
            await all_ready(front)
            await settled(front)
            assert pids(front)["prefill-1"] == before["prefill-1"]
            assert all(pids(front)[name] != before[name] for name in ("decode-1", "cache-1"))

    run(scene())


def test_one_that_is_stopped_keeps_nobody_waiting_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path / "model")
    for module in (forked, supervisor):
        monkeypatch.setattr(module, "CODE_S", 1.0)

    async def scene() -> None:
        async with server(settings(tmp_path / "kv"), model) as front:
            calm = await answers(front, PROMPTS[:2])
            stopped = fork_server()
            stopped.suspend()
            front._supervisor._start_s = 1.0
            await kill(front, "decode")
            while stopped.is_running() and stopped.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)
            front._supervisor._start_s = front.config.start_s
            await all_ready(front)
            assert await answers(front, PROMPTS[:2]) == calm
            fork_server().suspend()
            await kill(front, "decode")
            end_s = time.monotonic()
        # three seconds to leave, one for the fork: with a limit of 300 s to serve
        assert time.monotonic() - end_s < front.config.start_s / 2

    run(scene())
