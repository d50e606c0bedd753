"""A real server under a load that shifts: a peer changes its role, and goes back when that shifts back.

A load that goes to and fro faster than a window moves nobody.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving_world import VOCABULARY, answer, request_of, save_model, server, settings

from silva.serving.config import ServeConfig
from silva.serving.front import Front

CONTEXT = 512
WINDOW_S = 2.0
WORKERS = 8
LONG_PROMPT, LONG_ANSWER, SHORT_ANSWER = (450, 2), (4, 160), (4, 24)
"""Tokens of prompt, of answer."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose prompts take longer to compute than to be sent about."""
    folder = tmp_path_factory.mktemp("model")
    return save_model(folder, hidden=256, layers=4, context=CONTEXT)


def config_of(folder: Path) -> ServeConfig:
    kv: dict[str, Any] = {
        "peer_bytes": 32 << 20,
        "cache_disk_bytes": 0,
        "cache_folder": str(folder),
    }
    return settings(
        folder,
        kv=kv,
        pools={"prefill": 2, "decode": 2, "cache": 0},
        step={"most_running": 4},
        roles={"auto": True, "window_s": WINDOW_S},
        silence_s=30.0,
    )


class Load:
    """Requests one after another from some workers; no two prompts begin alike."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self._dice, self._numbers = random.Random(3), itertools.count()

    async def while_(self, kind: tuple[int, int], goes_on: Callable[[], bool]) -> None:
        """Until `goes_on` says no and all that was asked is answered, in full."""

        async def work() -> None:
            while goes_on():
                prompt = [self._dice.randrange(VOCABULARY) for _ in range(kind[0])]
                request = request_of(f"r{next(self._numbers)}", prompt, kind[1])
                assert len(await answer(self.front, request)) == kind[1]

        await asyncio.gather(*(work() for _ in range(WORKERS)))

    def moves(self) -> dict[str, int]:
        return dict(self.front.status().roles.moves)

    def names(self) -> set[str]:
        return {peer.name for peer in self.front.status().peers}


def test_a_peer_follows_the_load_there_and_back(model: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        async with server(config_of(tmp_path), model) as front:
            load = Load(front)
            await load.while_(LONG_PROMPT, lambda: not load.moves()["prefill"])
            assert load.moves() == {"prefill": 1, "decode": 0}
            # the one that left has gone, the one that came serves
            there = {"prefill-1", "prefill-2", "prefill-3", "decode-1"}
            await load.while_(LONG_PROMPT, lambda: load.names() != there or not ready(front))
            await load.while_(LONG_ANSWER, lambda: not load.moves()["decode"])
            assert load.moves() == {"prefill": 1, "decode": 1}
            assert "decode-3" in load.names()
            assert front.status().counters["retries"] == 0

    asyncio.run(asyncio.wait_for(scene(), 300.0))


def test_a_load_that_oscillates_quickly_moves_nobody(model: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        async with server(config_of(tmp_path), model) as front:
            load = Load(front)
            busy: list[dict[str, float]] = []
            end_s = time.monotonic() + 6 * WINDOW_S
            while time.monotonic() < end_s:
                for kind in (LONG_PROMPT, SHORT_ANSWER):
                    phase_s = time.monotonic() + WINDOW_S / 2
                    await load.while_(kind, lambda until=phase_s: time.monotonic() < until)
                    busy.append(dict(front.status().roles.busy))
            assert any(busy), "no window was judged"
            assert load.moves() == {"prefill": 0, "decode": 0}, busy

    asyncio.run(asyncio.wait_for(scene(), 300.0))


def ready(front: Front) -> bool:
    return all(peer.state == "ready" for peer in front.status().peers)
