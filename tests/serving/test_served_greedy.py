"""Fifty prompts, served in every way: greedy tokens and log-probabilities are those of transformers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "engine"), str(HERE.parent / "faults")]

from engine_world import Expected, assert_agrees, oracle, tokens_of  # noqa: E402
from serving_world import CARD, VOCABULARY, save_model, server, settings  # noqa: E402

from silva.control.request import Output, Request, SamplingParams  # noqa: E402
from silva.serving.backend import Backend  # noqa: E402
from silva.serving.colocated import Colocated  # noqa: E402
from silva.serving.config import ServeConfig  # noqa: E402

PROMPTS, TOKENS = 50, 8
GREEDY = SamplingParams(temperature=0.0, max_tokens=TOKENS, logprobs=0)
WAYS: dict[str, dict[str, Any]] = {
    "disaggregated": {},
    "colocated": {"colocated": True},
    "chunked": {"step": {"chunk_tokens": 24, "most_running": 24}},
    "preempted": {"colocated": True, "step": {"chunk_tokens": 2048}},
    "tcp": {"transfer": "tcp"},
    "portable": {"colocated": True, "kernels": "portable"},
}


@dataclass(frozen=True)
class Case:
    """A model, prompts from one token to as many as its context lets, and what is to be said."""

    folder: Path
    small_kv: int
    """Bytes: room for the longest prompt and little more, so that requests preempt each other."""
    prompts: list[tuple[int, ...]]
    expected: list[Expected]


@pytest.fixture(scope="module", params=["tiny", "stories260k"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    import transformers

    if request.param == "tiny":
        folder = save_model(tmp_path_factory.mktemp("m"))
        vocabulary, longest, small_kv = VOCABULARY, 200, 120 << 10
    else:
        folder, vocabulary, longest, small_kv = story_model(request), 512, 480, 700 << 10
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    stock.generation_config.eos_token_id = None
    lengths = [round(longest ** (n / (PROMPTS - 1))) for n in range(PROMPTS)]
    asked = [tokens_of(length, n, vocabulary) for n, length in enumerate(lengths)]
    return Case(folder, small_kv, asked, [oracle(stock, prompt, TOKENS) for prompt in asked])


def story_model(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("shared_data") / "stories260k"
    if not folder.is_dir():
        pytest.skip("needs stories260k in ../shared/data")
    return folder


@asynccontextmanager
async def backend(config: ServeConfig, model: Path) -> AsyncIterator[Backend]:
    if not config.colocated:
        async with server(config, model) as front:
            yield front
        return
    one = Colocated(config, model, [CARD])
    await one.open()
    try:
        yield one
    finally:
        await one.close(0.0)


async def ask(
    backend: Backend, name: str, prompt: Sequence[int], sampling: SamplingParams = GREEDY
) -> list[Output]:
    return [each async for each in backend.generate(Request(name, tuple(prompt), sampling))]


async def ask_all(backend: Backend, case: Case, name: str) -> int:
    """Ask everything at once and check it; prompt tokens that were cached."""
    asked = (ask(backend, f"{name}-{n}", prompt) for n, prompt in enumerate(case.prompts))
    answers = await asyncio.gather(*asked)
    for number, (outputs, expected) in enumerate(zip(answers, case.expected, strict=True)):
        tokens = [token for output in outputs for token in output.tokens]
        logprobs = [logprob for output in outputs for logprob in output.logprobs]
        assert len(logprobs) == len(tokens)
        assert_agrees(f"{name}-{number}", tokens, logprobs, expected)
    return sum(outputs[-1].cached_tokens for outputs in answers)


def preempted(serves: Backend) -> int:
    """How often a request that decoded had to give its blocks to another one."""
    peers = serves.status().peers
    return sum(peer.preempted for peer in peers if peer.role in ("decode", "both"))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_served_is_what_transformers_says(case: Case, tmp_path: Path, way: str) -> None:
    kv: dict[str, Any] = {
        "cache_folder": str(tmp_path),
        "cache_ram_bytes": 16 << 20,
        "cache_disk_bytes": 0,
    }
    # All that fit are let in at once, if each can have one block more: here answers need eight.
    kv["block_tokens"] = 1 if way == "preempted" else 16
    config = settings(tmp_path, **{"kv": kv, "silence_s": 60.0, **WAYS[way]})
    bytes_ = case.small_kv if way == "preempted" else 16 << 20
    config = replace(config, kv=replace(config.kv, peer_bytes=bytes_))

    async def scene() -> None:
        async with backend(config, case.folder) as serves:
            first = await ask_all(serves, case, "first")
            if way == "preempted":
                assert preempted(serves) > 0
            else:
                again = await ask_all(serves, case, "cached")
                assert again > first

    asyncio.run(asyncio.wait_for(scene(), 600.0))


def test_a_decode_peer_that_preempts_says_what_transformers_says(
    case: Case, tmp_path: Path
) -> None:
    """Short prompts fit together; their long answers, by far, do not."""
    import transformers

    stock = transformers.AutoModelForCausalLM.from_pretrained(case.folder).eval()
    stock.generation_config.eos_token_id = None
    long = replace(GREEDY, max_tokens=40)
    asked = [tokens_of(4 + n % 7, 100 + n, VOCABULARY) for n in range(16)]
    wanted = [oracle(stock, prompt, 40) for prompt in asked]
    config = settings(tmp_path, silence_s=60.0, pools={"cache": 0})
    kv = replace(config.kv, block_tokens=1, peer_bytes=case.small_kv // 4)

    async def scene() -> None:
        async with server(replace(config, kv=kv), case.folder) as front:
            answers = await asyncio.gather(
                *(ask(front, f"r{n}", prompt, long) for n, prompt in enumerate(asked))
            )
            for number, (outputs, expected) in enumerate(zip(answers, wanted, strict=True)):
                tokens = [token for output in outputs for token in output.tokens]
                logprobs = [logprob for output in outputs for logprob in output.logprobs]
                assert_agrees(f"r{number}", tokens, logprobs, expected)
            while not preempted(front):  # peers report twice a second
                await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(scene(), 600.0))
