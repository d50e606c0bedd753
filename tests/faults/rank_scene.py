"""A server whose ranks share experts, and the clients that read while something happens to them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from deepseek_cases import save_drafting
from kill_scene import Heard, clients, listen
from real_command import Command
from serving_world import VOCABULARY, save_tokenizer

WITHIN_S = 300.0

Asked = Sequence[dict[str, Any]]


class Ranks(NamedTuple):
    """Which peers share experts."""

    role: str
    flag: str
    """That asks for so many of them, without its dashes."""
    count: int


def save_model(folder: Path) -> Path:
    """A directory with a draft module that is often right."""
    changes = {"vocab_size": VOCABULARY, "max_position_embeddings": 256, "eos_token_id": None}
    save_drafting(folder, **changes)
    return save_tokenizer(folder)


def asked(prompts: Sequence[Sequence[int]], tokens: int) -> Asked:
    """A stream for each prompt, every other one greedy."""
    return [
        {
            "model": "tiny",
            "prompt": list(prompt),
            "max_tokens": tokens,
            "temperature": 0.8 * (n % 2),
            "seed": n,
            "stream": True,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        for n, prompt in enumerate(prompts)
    ]


class Scene:
    """The server, what all its processes wrote to their logs, and what its clients read in calm."""

    def __init__(self, command: Command, log: Path, ranks: Ranks, asked: Asked) -> None:
        self.command, self._log, self._role, self._asked = command, log, ranks.role, asked
        self.until(lambda: self.ranks() == dict.fromkeys(self.names(), ranks.count))
        self.calm = self.read()

    def peers(self) -> list[dict[str, Any]]:
        """Those that share experts."""
        found = self.command.status()["peers"]
        return [p for p in found if p["role"] == self._role]

    def names(self) -> list[str]:
        return [peer["name"] for peer in self.peers()]

    def ranks(self) -> dict[str, int]:
        """How many ranks each of them that serves knows to be alive."""
        return {p["name"]: p["ranks"] for p in self.peers() if p["state"] == "ready"}

    def counters(self) -> dict[str, int]:
        return dict(self.command.status()["counters"])

    def logged(self, *lines: str) -> bool:
        """Whether each of them is a part of the log."""
        return all(line in self._log.read_text() for line in lines)

    def until(self, true: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        end_s = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < end_s, (self.peers(), self._log.read_text()[-4000:])
            time.sleep(0.05)

    def read(
        self, meanwhile: Callable[[], object] = lambda: None, *, reading: float = 0.5
    ) -> list[Heard]:
        """What all clients read, while something is done once a share of them have a few tokens."""

        async def whole() -> list[Heard]:
            heard = [Heard() for _ in self._asked]
            async with clients(self.command.url) as http, asyncio.timeout(WITHIN_S):
                pairs = zip(self._asked, heard, strict=True)
                streams = [asyncio.create_task(listen(http, *pair)) for pair in pairs]
                while sum(len(each.tokens) > 4 for each in heard) < reading * len(heard):
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(meanwhile)
                return await asyncio.gather(*streams)

        return asyncio.run(whole())

    def ask(self, verb: str, **body: object) -> httpx.Response:
        return httpx.post(f"{self.command.url}/admin/v1/{verb}", json=body, timeout=60)


@contextmanager
def served(model: Path, log: Path, ranks: Ranks, asked: Asked, *settings: str) -> Iterator[Scene]:
    """A server with all ranks; it has to end well and leave nothing behind."""
    with log.open("w") as written:
        own = written.fileno()
        settings = ("serve.experts.rebalance_s=0", *settings)
        options: dict[str, object] = {ranks.flag: ranks.count}
        command = Command(model, settings, lambda: os.dup2(own, 2), **options)
    try:
        yield Scene(command, log, ranks, asked)
        command.settled()
        assert command.stop() == 0
        assert command.left() == []
    finally:
        command.close()
