"""DeepSeek-shaped models in the engine: greedy answers are those of transformers, as for Llama."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from deepseek_cases import random_hf, save_hf
from engine_world import CONTEXT, GREEDY, Expected, World, hand_over, oracle, tokens_of

from silva.models.language import LanguageModel
from silva.models.language_loader import load_language_model

LENGTHS = [1, 2, 4, 5, 16, 17, 31, 77, 140]
PROMPTS = {f"p{n}": tokens_of(n, n, 89) for n in LENGTHS}
COUNT = 16
SAMPLING = replace(GREEDY, max_tokens=COUNT)
SAYS: dict[str, Any] = {"max_position_embeddings": CONTEXT, "eos_token_id": None}


@pytest.fixture(scope="module", params=["v3", "v2 lite", "moonlight"])
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LanguageModel]:
    folder = save_hf(tmp_path_factory.mktemp("m") / "model", request.param, **SAYS)
    return random_hf(request.param, **SAYS), load_language_model(folder)


@pytest.fixture(scope="module")
def said(pair: tuple[Any, LanguageModel]) -> dict[str, Expected]:
    return {name: oracle(pair[0], prompt, COUNT) for name, prompt in PROMPTS.items()}


def ask_all(world: World, prefix: str = "") -> None:
    for name, prompt in PROMPTS.items():
        world.ask(prefix + name, prompt, SAMPLING)


def run_all(world: World, said: dict[str, Expected]) -> None:
    ask_all(world)
    world.run()
    for name, expected in said.items():
        world.assert_says(name, expected)


def test_all_at_once(pair: Any, said: dict[str, Expected]) -> None:
    world = World(pair[1], step_tokens=2048)
    run_all(world, said)
    assert max(world.batches) == len(PROMPTS)
    assert sum(e.tie for e in said.values()) > 0.9 * COUNT * len(PROMPTS)


@pytest.mark.parametrize("step_tokens", [5, 64])
def test_chunked(pair: Any, said: dict[str, Expected], step_tokens: int) -> None:
    run_all(World(pair[1], step_tokens=step_tokens, max_running=5), said)


def test_preempted(pair: Any, said: dict[str, Expected]) -> None:
    world = World(pair[1], blocks=CONTEXT // 4, step_tokens=40, max_running=12)
    run_all(world, said)
    assert world.preempted > 0


def test_cached_prefixes(pair: Any, said: dict[str, Expected]) -> None:
    world = World(pair[1], blocks=1000)
    run_all(world, said)
    ask_all(world, "again ")
    world.run()
    for name, prompt in PROMPTS.items():
        world.assert_says(f"again {name}", said[name])
        assert world.last[f"again {name}"].cached_tokens == (len(prompt) - 1) // 4 * 4


def test_handed_over(pair: Any, said: dict[str, Expected]) -> None:
    prefill, decode = World(pair[1], step_tokens=48, max_running=9), World(pair[1])
    hand_over(prefill, decode, {name: (prompt, SAMPLING) for name, prompt in PROMPTS.items()})
    decode.run()
    prefill.assert_empty()
    for name, expected in said.items():
        decode.assert_says(name, expected)
