"""A peer whose step is long is not taken for dead; one whose step does not end is replaced; blocks
are held for a peer that is long in reading them.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import psutil
import pytest
import slow_peers
from serving_world import answers, kill, prompts, run, save_model, server, settings

from silva.serving import supervisor

SILENCE_S = 2.0
PROMPTS = prompts(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def calm(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """What peers in no trouble answer."""
    found: list[list[int]] = []

    async def scene() -> None:
        async with server(settings(tmp_path_factory.mktemp("kv")), model) as front:
            found.extend(await answers(front, PROMPTS))

    run(scene())
    return found


def test_a_step_longer_than_the_silence_loses_nothing(
    model: Path, tmp_path: Path, calm: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "run", slow_peers.long_steps)
    assert slow_peers.LONG_S >= 2 * SILENCE_S

    async def scene() -> None:
        async with server(settings(tmp_path / "kv", silence_s=SILENCE_S), model) as front:
            pids = {peer.name: peer.pid for peer in front.status().peers}
            assert await answers(front, PROMPTS) == calm
            assert front.status().counters["retries"] == 0
            assert {peer.name: peer.pid for peer in front.status().peers} == pids

    run(scene())


def test_a_peer_whose_step_does_not_end_is_replaced(
    model: Path, tmp_path: Path, calm: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "run", slow_peers.stuck_steps)

    async def scene() -> None:
        config = settings(tmp_path / "kv", silence_s=30.0, stuck_s=1.0)
        async with server(config, model) as front:
            pids = {peer.name: peer.pid for peer in front.status().peers}
            assert await answers(front, PROMPTS) == calm
            assert front.status().counters["retries"] == 1
            now = {peer.name: peer.pid for peer in front.status().peers}
            assert {name for name in pids if now[name] != pids[name]} == {"prefill-1"}

    run(scene())


def test_blocks_are_held_as_long_as_the_front_counts_on_them(
    model: Path, tmp_path: Path, calm: list[list[int]]
) -> None:
    stuck_s = 3.0  # the lease of a hand-over is twice that

    async def scene() -> None:
        config = settings(tmp_path / "kv", silence_s=60.0, stuck_s=stuck_s)
        async with server(config, model) as front:
            reader = psutil.Process(await kill(front, "decode", signal.SIGSTOP))
            asked = asyncio.create_task(answers(front, PROMPTS))
            while not any(flight.state == "handover" for flight in front.hub.flights.values()):
                await asyncio.sleep(0.02)
            await asyncio.sleep(3 * stuck_s)
            reader.send_signal(signal.SIGCONT)
            assert await asked == calm
            assert front.status().counters["retries"] == 0

    run(scene())
