"""A disaggregated server of a tiny random model, and requests whose answers are known."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from silva.config import build
from silva.control.request import Request, SamplingParams
from silva.serving.backend import ModelCard, PeerStatus
from silva.serving.config import ServeConfig
from silva.serving.front import Front
from silva.serving.process_name import PREFIX
from silva.serving.spread import computing_peers

VOCABULARY = 300
CONTEXT = 256
CARD = ModelCard("tiny", 0, CONTEXT)


def save_model(folder: Path, *, hidden: int = 64, layers: int = 2, context: int = CONTEXT) -> Path:
    """A directory with a small Llama, large enough to prefer some tokens, and a tokenizer."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 3 // 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return save_tokenizer(folder)


def save_tokenizer(folder: Path) -> Path:
    """Beside a model: a token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({}))
    return folder


def settings(cache_folder: Path, **changes: object) -> ServeConfig:
    """One peer of each role unless told otherwise; one thread each."""
    tree = {
        "threads": 1,
        "silence_s": 2.0,
        "kv": {
            "peer_bytes": 4 << 20,
            "cache_ram_bytes": 1 << 20,
            "cache_disk_bytes": 4 << 20,
            "cache_folder": str(cache_folder),
        },
    }
    return build(ServeConfig, {**tree, **changes}, "test")


def run(scene: Coroutine[Any, Any, None], within_s: float = 240.0) -> None:
    """Play a scene; afterwards no process of it is left, not even one that nobody waited for."""
    asyncio.run(asyncio.wait_for(scene, within_s))
    assert not peer_processes()


def peer_processes() -> list[psutil.Process]:
    """Peers that this process has started, by the name that the system has of them."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.name().startswith(PREFIX)]


@asynccontextmanager
async def server(config: ServeConfig, model: Path) -> AsyncIterator[Front]:
    """A server with all its peers ready; closed at the end."""
    front = Front(config, model, [CARD])
    await front.open()
    try:
        await all_ready(front)
        yield front
    finally:
        await front.close(grace_s=0.0)


async def all_ready(front: Front) -> None:
    """Wait until as many peers are ready as are wanted."""
    pools = front.config.pools
    wanted = computing_peers(front.config) + pools.cache
    while sum(peer.state == "ready" for peer in front.status().peers) < wanted:
        await asyncio.sleep(0.02)


def prompts(count: int) -> list[tuple[int, ...]]:
    """Prompts of 5 to 60 tokens, some with a common beginning."""
    dice = random.Random(7)
    common = tuple(dice.randrange(VOCABULARY) for _ in range(40))
    return [
        (common if number % 3 == 0 else ())
        + tuple(dice.randrange(VOCABULARY) for _ in range(dice.randint(5, 20)))
        for number in range(count)
    ]


def request_of(name: str, prompt: Sequence[int], tokens: int = 24) -> Request:
    """Every other one is sampled: it must say the same whoever computes it."""
    sampled = sum(prompt) % 2
    sampling = SamplingParams(max_tokens=tokens, temperature=0.8 * sampled, seed=sum(prompt))
    return Request(name, tuple(prompt), sampling)


async def answer(front: Front, request: Request) -> list[int]:
    """All tokens of a request."""
    tokens: list[int] = []
    async for output in front.generate(request):
        tokens += output.tokens
    return tokens


async def answers(
    front: Front, asked: Sequence[tuple[int, ...]], tokens: int = 24
) -> list[list[int]]:
    """The answers to prompts, asked one after another."""
    return [
        await answer(front, request_of(f"calm-{n}", prompt, tokens))
        for n, prompt in enumerate(asked)
    ]


def peer_of(front: Front, role: str) -> PeerStatus | None:
    """A ready peer of a role."""
    ready = [p for p in front.status().peers if p.role == role and p.state == "ready"]
    return ready[0] if ready else None


async def kill(front: Front, role: str, sig: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to a ready peer of a role, waiting for one; its pid."""
    while (peer := peer_of(front, role)) is None:
        await asyncio.sleep(0.02)
    os.kill(peer.pid, sig)
    if sig == signal.SIGKILL:
        while any(p.pid == peer.pid for p in front.status().peers):
            await asyncio.sleep(0.01)
    return peer.pid


async def settled(front: Front) -> None:
    """Wait until all blocks are free, and fail if they do not become so."""
    for _ in range(200):
        peers = [p for p in front.status().peers if p.role != "cache"]
        if all(p.blocks_free == p.blocks_total > 0 for p in peers):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"blocks are missing: {front.status().peers}")


def with_pools(config: ServeConfig, **pools: int) -> ServeConfig:
    """The same with other numbers of peers."""
    return replace(config, pools=replace(config.pools, **pools))
