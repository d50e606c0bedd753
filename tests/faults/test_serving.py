"""Peers are killed, stopped and cut off while they serve: nothing is lost, nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving_world import (
    all_ready,
    answer,
    answers,
    kill,
    peer_of,
    prompts,
    request_of,
    run,
    save_model,
    server,
    settings,
    settled,
    with_pools,
)

from silva.serving.wire.messages import Tokens

ROLES = ("prefill", "decode", "cache")
KILLS = 5
STOPPED_S = 5.0
"""More than twice the silence after which a peer is no longer counted on."""
REQUESTS = 200
PROMPTS = prompts(20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def test_every_role_is_killed_again_and_again_and_nothing_is_lost(
    model: Path, tmp_path: Path
) -> None:
    async def scene() -> None:
        dice = random.Random(1)
        async with server(settings(tmp_path / "kv"), model) as front:
            calm = await answers(front, PROMPTS)
            over = asyncio.Event()
            heard: list[bool] = []

            async def ask_on(worker: int) -> None:
                number = 0
                while not over.is_set() or len(heard) < REQUESTS:
                    which = dice.randrange(len(PROMPTS))
                    request = request_of(f"w{worker}-{number}", PROMPTS[which])
                    heard.append(await answer(front, request) == calm[which])
                    number += 1

            workers = [asyncio.create_task(ask_on(worker)) for worker in range(16)]
            victims = [role for role in ROLES for _ in range(KILLS)]
            dice.shuffle(victims)
            for role in victims:
                await asyncio.sleep(dice.uniform(0.05, 0.5))
                await kill(front, role)
            over.set()
            await asyncio.gather(*workers)
            assert len(heard) >= REQUESTS
            assert all(heard), f"{heard.count(False)} of {len(heard)} answers are wrong"
            assert front.status().counters["retries"] > 0
            await all_ready(front)
            await settled(front)

    run(scene())


@pytest.mark.parametrize("transfer", ["shm", "tcp"])
def test_a_stopped_peer_is_not_waited_for_and_its_late_words_are_refused(
    model: Path, tmp_path: Path, transfer: str
) -> None:
    async def scene() -> None:
        plain = settings(tmp_path / "kv", transfer=transfer)
        config = with_pools(plain, decode=2, prefill=2, cache=2)
        async with server(config, model) as front:
            calm = await answers(front, PROMPTS[:8], tokens=100)
            deliver, late = front.hub.receive, []
            victim = peer_of(front, "decode")
            assert victim is not None

            def on_a_slow_wire(name: str, message: Any) -> None:
                if name == victim.name and isinstance(message, Tokens):
                    late.append(message)
                else:
                    deliver(name, message)

            front.hub.receive = on_a_slow_wire  # type: ignore[method-assign]
            asked = [
                asyncio.create_task(answer(front, request_of(f"a{n}", prompt, 100)))
                for n, prompt in enumerate(PROMPTS[:8])
            ]
            while not late:
                await asyncio.sleep(0.01)
            stopped = [await kill(front, role, signal.SIGSTOP) for role in ROLES]
            again_s = time.monotonic() + STOPPED_S
            assert await asyncio.gather(*asked) == calm
            await asyncio.sleep(again_s - time.monotonic())
            refused = front.status().counters["refused_late"]
            front.hub.receive = deliver  # type: ignore[method-assign]
            for message in late:
                deliver(victim.name, message)
            assert front.status().counters["refused_late"] >= refused + len(late)
            for pid in stopped:
                psutil.Process(pid).send_signal(signal.SIGCONT)
            await all_ready(front)
            await settled(front)
            assert await answers(front, PROMPTS[:8], tokens=100) == calm

    run(scene())


def test_who_leaves_gives_the_blocks_back(model: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        async with server(settings(tmp_path / "kv"), model) as front:
            for number, prompt in enumerate(PROMPTS):
                stream = front.generate(request_of(f"l{number}", prompt, 150))
                for _ in range(1 + number % 4):
                    await anext(stream)
                await stream.aclose()
            await settled(front)
            assert front.status().counters["cancelled"] == len(PROMPTS)

    run(scene())


def test_blocks_on_the_disk_survive_a_restart_and_damage_is_never_served(
    model: Path, tmp_path: Path
) -> None:
    async def scene() -> None:
        config = settings(tmp_path / "kv")
        long = [tuple(PROMPTS[0] * 3)[:100]]
        async with server(config, model) as front:
            calm = await answers(front, long)
            await asyncio.sleep(1.0)  # for the cache to fetch and write the blocks
        files = [f for f in (tmp_path / "kv").rglob("*") if f.is_file() and f.stat().st_size > 1000]
        assert files
        async with server(config, model) as front:
            request = request_of("again", long[0])
            outputs = [output async for output in front.generate(request)]
            assert [t for output in outputs for t in output.tokens] == calm[0]
            assert outputs[-1].cached_tokens >= 64
        for file in files:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        async with server(config, model) as front:
            assert await answers(front, long) == calm

    run(scene())


def test_a_drained_peer_finishes_and_leaves_and_roles_can_be_switched(
    model: Path, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with server(settings(tmp_path / "kv"), model) as front:
            calm = await answers(front, PROMPTS[:6], tokens=60)
            await front.scale({"decode": 2, "prefill": 2})
            while sum(p.state == "ready" for p in front.status().peers) < 5:
                await asyncio.sleep(0.05)
            asked = [
                asyncio.create_task(answer(front, request_of(f"d{n}", prompt, 60)))
                for n, prompt in enumerate(PROMPTS[:6])
            ]
            await asyncio.sleep(0.05)
            await front.drain("decode-1")
            await front.switch("prefill-2", "decode")
            assert await asyncio.gather(*asked) == calm
            while {p.name for p in front.status().peers} != {
                "cache-1",
                "decode-2",
                "decode-3",
                "prefill-1",
            }:
                await asyncio.sleep(0.05)
            assert front.status().counters["retries"] == 0

    run(scene())
