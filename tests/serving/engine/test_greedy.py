"""Greedy answers and their log-probabilities are those of transformers, whatever the scheduler does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_world import CONTEXT, GREEDY, World, oracle, tiny, tokens_of

from silva.control.request import SamplingParams
from silva.kernels import Backend, native_loaded
from silva.models.language import LanguageModel
from silva.models.language_loader import load_language_model

LENGTHS = [1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 50, 77, 128, 200]
PROMPTS = {f"p{n}": tokens_of(n, n) for n in LENGTHS}
BACKENDS: list[Backend] = ["portable"] + (["native"] if native_loaded() else [])


def run_all(world: World, expected: Any) -> None:
    for name, prompt in PROMPTS.items():
        world.ask(name, prompt)
    world.run()
    assert set(world.finish.values()) == {"length"}
    for name, prompt in PROMPTS.items():
        world.assert_says(name, expected(prompt))


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_at_once(model: LanguageModel, expected: Any, backend: Backend) -> None:
    world = World(model, step_tokens=2048, backend=backend)
    run_all(world, expected)
    assert max(world.batches) == len(PROMPTS)
    assert sum(expected(p).tie for p in PROMPTS.values()) > 0.9 * 24 * len(PROMPTS)


def test_one_at_a_time(model: LanguageModel, expected: Any) -> None:
    world = World(model, max_running=1)
    run_all(world, expected)
    assert max(world.batches) == 1


@pytest.mark.parametrize("step_tokens", [5, 17, 64])
def test_chunked(model: LanguageModel, expected: Any, step_tokens: int) -> None:
    run_all(World(model, step_tokens=step_tokens, max_running=5), expected)


def test_preempted(model: LanguageModel, expected: Any) -> None:
    world = World(model, blocks=CONTEXT // 4, step_tokens=40, max_running=12)
    run_all(world, expected)
    assert world.preempted > 0


def test_two_threads(model: LanguageModel, expected: Any) -> None:
    run_all(World(model, step_tokens=256, threads=2), expected)


def test_cached_prefixes(model: LanguageModel, expected: Any) -> None:
    world = World(model, blocks=1000)
    run_all(world, expected)
    for name, prompt in PROMPTS.items():
        world.ask(f"again {name}", prompt)
        world.ask(f"beside {name}", prompt)
    world.run()
    for name, prompt in PROMPTS.items():
        for again in (f"again {name}", f"beside {name}"):
            world.assert_says(again, expected(prompt))
            assert world.last[again].cached_tokens == (len(prompt) - 1) // 4 * 4


def test_a_prompt_that_many_share_is_computed_once(model: LanguageModel, expected: Any) -> None:
    world = World(model, step_tokens=64)
    prompts = {f"s{n}": (*tokens_of(100, 1), *tokens_of(n, n)) for n in range(1, 9)}
    for name, prompt in prompts.items():
        world.ask(name, prompt)
    world.run()
    cached = [world.last[name].cached_tokens for name in prompts]
    assert sorted(cached)[1:] == [100] * 7
    for name, prompt in prompts.items():
        world.assert_says(name, expected(prompt))


def test_arrivals_in_the_middle(model: LanguageModel, expected: Any) -> None:
    world = World(model, step_tokens=48, max_running=6)
    for number, (name, prompt) in enumerate(PROMPTS.items()):
        world.ask(name, prompt)
        for _ in range(number % 4):
            world.step()
    world.run()
    for name, prompt in PROMPTS.items():
        world.assert_says(name, expected(prompt))


@pytest.mark.parametrize("family", ["llama tied, all heads keys", "qwen2", "qwen3", "smollm2"])
def test_other_families(tmp_path: Path, family: str) -> None:
    stock, model = tiny(tmp_path / "m", family)
    world = World(model, step_tokens=64)
    prompts = {f"p{n}": tokens_of(n, n) for n in (1, 9, 70)}
    for name, prompt in prompts.items():
        world.ask(name, prompt)
    world.run()
    for name, prompt in prompts.items():
        world.assert_says(name, oracle(stock, prompt, 24))


def test_bfloat16_runs_and_is_near(tmp_path: Path) -> None:
    import torch

    _, exact = tiny(tmp_path / "m")
    model = load_language_model(tmp_path / "m", dtype=torch.bfloat16)
    worlds = [World(model, step_tokens=64), World(exact, step_tokens=64)]
    one = SamplingParams(temperature=0.0, max_tokens=1, logprobs=0)
    for world in worlds:
        for name, prompt in PROMPTS.items():
            world.ask(name, prompt, one)
        world.run()
    for name in PROMPTS:
        if worlds[0].tokens[name] == worlds[1].tokens[name]:
            pair = [world.logprobs[name][0].logprob for world in worlds]
            assert abs(pair[0] - pair[1]) < 0.5


@pytest.mark.parametrize("step_tokens", [24, 512])
def test_stories260k(shared_data: Path, step_tokens: int) -> None:
    folder = shared_data / "stories260k"
    if not folder.is_dir():
        pytest.skip("needs stories260k in ../shared/data")
    import transformers

    stock = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    world = World(load_language_model(folder), step_tokens=step_tokens, max_running=8)
    prompts = {f"p{n}": (1, *tokens_of(n, n, 512)) for n in (0, 3, 20, 61, 190)}
    sampling = SamplingParams(temperature=0.0, max_tokens=40, stop_token_ids=(2,), logprobs=0)
    for name, prompt in prompts.items():
        world.ask(name, prompt, sampling)
    world.run()
    for name, prompt in prompts.items():
        world.assert_says(name, oracle(stock, prompt, 40, eos=2))


def test_an_end_token_and_the_context_end_an_answer(model: LanguageModel, expected: Any) -> None:
    world = World(model)
    prompt = PROMPTS["p17"]
    answer = expected(prompt).tokens
    stop = answer[5]
    world.ask("stop", prompt, SamplingParams(temperature=0.0, stop_token_ids=(stop, 3)))
    world.ask("first", prompt, SamplingParams(temperature=0.0, stop_token_ids=(answer[0],)))
    world.ask("one", prompt, SamplingParams(temperature=0.0, max_tokens=1))
    world.ask("context", tokens_of(CONTEXT - 3), SamplingParams(temperature=0.0))
    world.run()
    assert world.tokens["stop"] == answer[: answer.index(stop) + 1]
    assert world.tokens["first"] == world.tokens["one"] == answer[:1]
    assert len(world.tokens["context"]) == 3
    reasons = {"stop": "stop", "first": "stop", "one": "length", "context": "length"}
    assert world.finish == reasons


def test_times_are_in_order_and_alternatives_are_told(model: LanguageModel) -> None:
    world = World(model, step_tokens=16, max_running=4)
    world.ask("long", tokens_of(60))
    world.ask("other", tokens_of(9, 5), GREEDY)
    world.run()
    for name in ("long", "other"):
        p = world.last[name].phases
        times = [p.arrival_s, p.prefill_start_s, p.prefill_done_s, p.joined_s, p.first_decode_s]
        assert [*times, p.finished_s] == sorted([*times, p.finished_s])  # type: ignore[type-var]
        for logprob, token in zip(world.logprobs[name], world.tokens[name], strict=True):
            assert logprob.top[0] == (token, logprob.logprob)
            assert logprob.top[0][1] >= logprob.top[1][1]
