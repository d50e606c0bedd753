"""`silva serve --ep`: ranks that share experts are killed, leave and come while clients read."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from deepseek_cases import save_drafting
from kill_scene import Heard, clients, listen
from real_command import Command
from serving_world import VOCABULARY, prompts, save_tokenizer

from silva.experts import futex

pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")

RANKS = 4
SETTINGS = ("serve.experts.rebalance_s=0",)
LONG, SHORT = "serve.experts.patience_s=100", "serve.experts.patience_s=6"
SPLIT = "serve.experts.overlap=on"
"""Steps are in two halves when ranks die; else that is left to what was measured."""
STREAMS, TOKENS = 12, 64
ASKED: list[dict[str, Any]] = [
    {
        "model": "tiny",
        "prompt": list(prompt),
        "max_tokens": TOKENS,
        "temperature": 0.8 * (n % 2),
        "seed": n,
        "stream": True,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    for n, prompt in enumerate(prompts(STREAMS))
]
WITHIN_S = 300.0


class Scene:
    """The server, what all its processes wrote to their logs, and what its clients read in calm."""

    def __init__(self, command: Command, log: Path) -> None:
        self.command, self._log = command, log
        self.until(lambda: self.ranks() == dict.fromkeys(self.names(), RANKS))
        self.calm = self.read()

    def peers(self) -> list[dict[str, Any]]:
        found = self.command.status()["peers"]
        return [p for p in found if p["role"] == "decode"]

    def names(self) -> list[str]:
        return [peer["name"] for peer in self.peers()]

    def ranks(self) -> dict[str, int]:
        """How many ranks each decode peer that serves knows to be alive."""
        return {p["name"]: p["ranks"] for p in self.peers() if p["state"] == "ready"}

    def counters(self) -> dict[str, int]:
        return dict(self.command.status()["counters"])

    def logged(self, *lines: str) -> bool:
        """Whether each of them is a part of the log."""
        return all(line in self._log.read_text() for line in lines)

    def until(self, true: Callable[[], bool]) -> None:
        end_s = time.monotonic() + WITHIN_S
        while not true():
            assert time.monotonic() < end_s, (self.peers(), self._log.read_text()[-4000:])
            time.sleep(0.05)

    def read(self, meanwhile: Callable[[], object] = lambda: None) -> list[Heard]:
        """What all clients read, while something is done once half of them have a few tokens."""

        async def whole() -> list[Heard]:
            heard = [Heard() for _ in ASKED]
            async with clients(self.command.url) as http, asyncio.timeout(WITHIN_S):
                pairs = zip(ASKED, heard, strict=True)
                streams = [asyncio.create_task(listen(http, *pair)) for pair in pairs]
                while sum(len(each.tokens) > 4 for each in heard) < STREAMS // 2:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(meanwhile)
                return await asyncio.gather(*streams)

        return asyncio.run(whole())

    def ask(self, verb: str, **body: object) -> httpx.Response:
        return httpx.post(f"{self.command.url}/admin/v1/{verb}", json=body, timeout=60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "model"
    changes = {"vocab_size": VOCABULARY, "max_position_embeddings": 256, "eos_token_id": None}
    save_drafting(folder, **changes)
    return save_tokenizer(folder)


@contextmanager
def served(model: Path, log: Path, *settings: str) -> Iterator[Scene]:
    """A server with all ranks; it has to end well and leave nothing behind."""
    with log.open("w") as written:
        own = written.fileno()
        settings = (*SETTINGS, *settings)
        command = Command(model, settings, lambda: os.dup2(own, 2), ep=RANKS)
    try:
        yield Scene(command, log)
        command.settled()
        assert command.stop() == 0
        assert command.left() == []
    finally:
        command.close()


@pytest.fixture(scope="module")
def scene(model: Path) -> Iterator[Scene]:
    with served(model, model.with_name("log"), LONG, SPLIT) as scene:
        yield scene


def test_all_streams_are_read_as_in_calm(scene: Scene) -> None:
    assert all(h.ended and not h.error and len(h.tokens) == TOKENS for h in scene.calm), scene.calm
    assert scene.read() == scene.calm
    assert scene.ranks() == dict.fromkeys(scene.names(), RANKS)


@pytest.mark.parametrize("count", [1, 2], ids=["one", "so many that the others are too few"])
def test_nothing_is_lost_with_ranks_and_others_take_their_places(scene: Scene, count: int) -> None:
    before, names = scene.counters(), scene.names()
    killed: list[int] = []

    def kill() -> None:
        scene.command.traces.note()
        for victim in sorted(scene.peers(), key=lambda peer: -peer["running"])[:count]:
            killed.append(names.index(victim["name"]))
            os.kill(victim["pid"], signal.SIGKILL)

    assert scene.read(kill) == scene.calm
    scene.until(lambda: scene.ranks() == dict.fromkeys(names, RANKS))
    assert scene.read() == scene.calm
    after = scene.counters()
    assert after["failed"] == 0 and after["retries"] > before["retries"]
    if count == 1:
        out = f"ranks {killed} are"
        assert scene.logged(f"{out} out; the last vote with them was", f"{out} in again after")


def test_one_rank_may_leave_and_another_come(scene: Scene) -> None:
    *others, last = scene.names()

    def leave() -> None:
        assert scene.ask("drain", peer=last).status_code == 200
        refused = scene.ask("drain", peer=others[0])
        assert refused.status_code == 409 and "are possible" in refused.text

    assert scene.read(leave) == scene.calm
    scene.until(lambda: scene.names() == others)
    assert scene.read() == scene.calm
    assert scene.ask("scale", roles={"decode": RANKS}).status_code == 200
    scene.until(lambda: scene.ranks() == dict.fromkeys([*others, "decode-5"], RANKS))
    assert scene.read() == scene.calm
    assert scene.counters()["failed"] == 0


def test_a_rank_that_was_taken_for_dead_ends_and_is_replaced(model: Path, tmp_path: Path) -> None:
    with served(model, tmp_path / "log", SHORT) as scene:
        names = scene.names()
        stopped: list[int] = []

        def stop() -> None:
            victim = max(scene.peers(), key=lambda peer: peer["running"])
            stopped.append(victim["pid"])
            os.kill(victim["pid"], signal.SIGSTOP)

        assert scene.read(stop) == scene.calm
        assert RANKS - 1 in scene.ranks().values()
        scene.command.traces.note()
        os.kill(stopped[0], signal.SIGCONT)
        scene.until(lambda: scene.ranks() == dict.fromkeys(names, RANKS))
        assert scene.logged("this process ends: rank", "was taken for dead by")
        assert stopped[0] not in [peer["pid"] for peer in scene.peers()]
        assert scene.read() == scene.calm
