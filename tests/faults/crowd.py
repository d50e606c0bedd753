"""Many streams at a time from a front in this process: stories, as the trained model knows them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kill_scene import STREAMS, texts
from serving_world import answer, request_of, settings
from tokenizers import Tokenizer

from silva.serving.config import KvConfig, ServeConfig
from silva.serving.front import Front

WITHIN_S = 600.0
"""Far more than a machine needs."""
SILENCE_S = 60.0
"""None is taken for silent on a busy machine: a retry has another cause."""


def stories(model: Path) -> list[tuple[int, ...]]:
    """Prompts whose last blocks are not full: a decode peer has to read those, whatever it had
    before.
    """
    tokenizer, size = Tokenizer.from_file(str(model / "tokenizer.json")), KvConfig().block_tokens
    found = (tuple(tokenizer.encode(text).ids) for text in texts())
    return [prompt if len(prompt) % size else prompt[:-1] for prompt in found]


def roomy(folder: Path, transfer: str = "shm") -> ServeConfig:
    """Settings with which all streams decode at the same time."""
    config = settings(folder, transfer=transfer, silence_s=SILENCE_S)
    return replace(
        config,
        kv=replace(config.kv, peer_bytes=32 << 20),
        step=replace(config.step, most_running=STREAMS),
    )


async def crowd(
    front: Front, prompts: Sequence[tuple[int, ...]], streams: int = STREAMS, namespace: str = ""
) -> list[list[int]]:
    """The answers to so many streams at the same time, which take the prompts in turn."""
    begun = front.status().counters["requests"]

    def ask(number: int) -> Coroutine[Any, Any, list[int]]:
        request = request_of(f"r{begun + number}", prompts[number % len(prompts)])
        return answer(front, replace(request, namespace=namespace))

    return await asyncio.gather(*map(ask, range(streams)))


def repeated(calm: Sequence[list[int]]) -> list[list[int]]:
    """What `crowd` must hear, by what is said to each prompt."""
    return [calm[number % len(calm)] for number in range(STREAMS)]
