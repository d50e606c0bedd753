"""A DeepSeek-shaped directory behind the API, colocated and on peers, drafts and cache in use."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
sys.path.insert(0, str(Path(__file__).parent / "engine"))

from deepseek_cases import save_drafting
from engine_world import Expected, oracle, tokens_of
from serving_world import VOCABULARY, save_tokenizer

from silva.config import build
from silva.errors import SilvaError
from silva.models.library import Library
from silva.models.text import load_text
from silva.serving.api.app import create_app
from silva.serving.launch import LaunchConfig, make_backend

COUNT = 12
PROMPTS = {n: tokens_of(n, n, VOCABULARY) for n in (3, 40, 90)}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, dict[int, Expected]]]:
    """The directory as `silva serve` resolves it, and what transformers says."""
    folder = tmp_path_factory.mktemp("m")
    changes = {"vocab_size": VOCABULARY, "max_position_embeddings": 256, "eos_token_id": None}
    stock = save_drafting(folder / "model", **changes)
    save_tokenizer(folder / "model")
    expected = {n: oracle(stock, prompt, COUNT) for n, prompt in PROMPTS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SILVA_CACHE", str(folder / "cache"))
        yield Library().resolve(str(folder / "model")), expected


@pytest.mark.parametrize(
    "settings",
    [
        {"colocated": True, "mtp": False},
        {"mtp": True},
        {"mtp": True, "experts": {"ranks": 2}},
        {"mtp": False, "experts": {"ranks": 4}},
        {"mtp": True, "experts": {"prefill_ranks": 2}, "step": {"chunk_tokens": 24}},
        {"mtp": False, "experts": {"prefill_ranks": 4, "ranks": 2}},
    ],
    ids=["colocated", "peers", "2 ranks", "4 ranks", "2 ranks prefill", "4 prefill, 2 decode"],
)
def test_greedy_answers_are_those_of_transformers(
    served: tuple[Path, dict[int, Expected]], tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder, expected = served
    kv = {"peer_bytes": 4 << 20, "cache_ram_bytes": 1 << 20, "cache_disk_bytes": 0}
    serve = {"threads": 1, "kv": {**kv, "cache_folder": str(tmp_path)}, **settings}
    config = build(LaunchConfig, {"name": "tiny", "serve": serve}, "test")
    found = asyncio.run(_ask_all(config, folder))
    for n, answer in expected.items():
        for again in (0, 1):
            tokens, cached = found[n, again]
            assert tokens[: answer.tie] == answer.tokens[: answer.tie]
            assert cached == (again * (n - 1) // 16 * 16)
    assert sum(answer.tie for answer in expected.values()) > 2 * COUNT


async def _ask_all(
    config: LaunchConfig, folder: Path
) -> dict[tuple[int, int], tuple[list[int], int]]:
    """By prompt and turn, the tokens of the answer and how many of the prompt were found."""

    def fail(error: SilvaError) -> None:
        raise error

    backend, text = make_backend(config, folder, fail), load_text(folder)
    found = {}
    await backend.open()
    try:
        while not backend.ready():
            await asyncio.sleep(0.05)
        app = create_app(backend, text)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for again in (0, 1):
                for n, prompt in PROMPTS.items():
                    body = {"model": "tiny", "prompt": prompt, "max_tokens": COUNT}
                    body |= {"temperature": 0, "return_token_ids": True}
                    reply = await client.post("/v1/completions", content=json.dumps(body))
                    told = reply.json()
                    assert reply.status_code == 200, told
                    details = told["usage"]["prompt_tokens_details"]
                    found[n, again] = told["choices"][0]["token_ids"], details["cached_tokens"]
                await asyncio.sleep(0.5)  # for what was offered to be fetched
    finally:
        await backend.close(0.0)
        text.close()
    return found
