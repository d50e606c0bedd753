"""Multi-token prediction: the same answers in fewer steps, whatever is asked and wherever it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from deepseek_cases import save_drafting
from engine_world import (
    CONTEXT,
    GREEDY,
    Expected,
    World,
    emitted,
    hand_over,
    oracle,
    tokens_of,
)

from silva.control.request import Request, SamplingParams
from silva.models.language import LanguageModel
from silva.models.language_loader import load_language_model

COUNT = 16
LENGTHS = [1, 2, 5, 16, 31, 60, 77, 110]
PROMPTS = {f"p{n}": tokens_of(n, n, 89) for n in LENGTHS}
Asked = Mapping[str, tuple[Sequence[int], SamplingParams]]

GREEDILY: Asked = {n: (p, replace(GREEDY, max_tokens=COUNT)) for n, p in PROMPTS.items()}
COLD = SamplingParams(temperature=0.3, max_tokens=COUNT)
SAMPLED: Asked = {
    "plain": (PROMPTS["p5"], replace(COLD, seed=1)),
    "other seed": (PROMPTS["p5"], replace(COLD, seed=2)),
    "hot": (PROMPTS["p16"], SamplingParams(max_tokens=COUNT, seed=3)),
    "nucleus": (PROMPTS["p16"], replace(COLD, top_p=0.8, logprobs=2, seed=4)),
    "few": (PROMPTS["p2"], replace(COLD, top_k=3, min_p=0.1, logprobs=0, seed=5)),
    "penalties": (
        PROMPTS["p31"],
        replace(COLD, presence_penalty=0.6, frequency_penalty=0.3, repetition_penalty=1.2),
    ),
    "biased": (PROMPTS["p1"], replace(COLD, logit_bias=((3, 2.0), (5, -100.0)), seed=7)),
    "short": (PROMPTS["p77"], replace(COLD, max_tokens=2)),
    "three": (PROMPTS["p77"], replace(COLD, max_tokens=3, seed=9)),
    "context": (tokens_of(CONTEXT - 5, 3, 89), replace(COLD, max_tokens=40)),
}


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LanguageModel]:
    folder = tmp_path_factory.mktemp("m") / "model"
    changes = {"max_position_embeddings": CONTEXT, "eos_token_id": None}
    return save_drafting(folder, **changes), load_language_model(folder)


@pytest.fixture(scope="module")
def said(drafting: tuple[Any, LanguageModel]) -> dict[str, Expected]:
    return {name: oracle(drafting[0], prompt, COUNT) for name, prompt in PROMPTS.items()}


def answered(model: LanguageModel, asked: Asked, drafts: int = 1, **settings: Any) -> World:
    world = World(model, drafts=drafts, **settings)
    for name, (prompt, sampling) in asked.items():
        world.ask(name, prompt, sampling)
    world.run()
    return world


WAYS: dict[str, dict[str, Any]] = {
    "at once": {"step_tokens": 2048},
    "chunked": {"step_tokens": 12, "max_running": 4},
    "preempted": {"blocks": CONTEXT // 4, "step_tokens": 40, "max_running": 12},
    "alone": {"max_running": 1},
}


@pytest.mark.parametrize("way", WAYS)
def test_greedy_answers_are_those_of_transformers(
    drafting: Any, said: dict[str, Expected], way: str
) -> None:
    world = answered(drafting[1], GREEDILY, **WAYS[way])
    for name, expected in said.items():
        world.assert_says(name, expected)
    assert (world.preempted > 0) == (way == "preempted")


def test_right_drafts_save_steps(drafting: Any) -> None:
    for asked, most in ((GREEDILY, 0.8), (SAMPLED, 0.95)):
        with_drafts = answered(drafting[1], asked, step_tokens=2048)
        without = answered(drafting[1], asked, 0, step_tokens=2048)
        assert with_drafts.tokens == without.tokens
        # Outputs: one a request and step, with one token or two.
        assert sum(with_drafts.batches) < most * sum(without.batches)
        spent = with_drafts.engine.spent
        assert spent.accepted == sum(without.batches) - sum(with_drafts.batches)
        assert spent.accepted < spent.drafted < sum(with_drafts.batches)
        assert without.engine.spent.drafted == 0


@pytest.mark.parametrize("way", WAYS)
def test_sampled_answers_are_equal_with_and_without(drafting: Any, way: str) -> None:
    plain = answered(drafting[1], SAMPLED, 0)
    world = answered(drafting[1], SAMPLED, **WAYS[way])
    assert world.tokens == plain.tokens
    assert world.finish == plain.finish
    for name, logprobs in plain.logprobs.items():
        for own, other in zip(world.logprobs[name], logprobs, strict=True):
            assert own.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_an_end_token_ends_wherever_it_comes(drafting: Any) -> None:
    plain = answered(drafting[1], GREEDILY, 0).tokens["p16"]
    asked = {
        f"stop {n}": (PROMPTS["p16"], replace(GREEDY, max_tokens=COUNT, stop_token_ids=(token,)))
        for n, token in enumerate(plain)
    }
    world = answered(drafting[1], asked)
    for n, token in enumerate(plain):
        assert world.tokens[f"stop {n}"] == plain[: plain.index(token) + 1]


def test_the_guess_is_handed_over_with_the_blocks(drafting: Any, said: dict[str, Expected]) -> None:
    model = drafting[1]
    prefill = World(model, drafts=1, step_tokens=20, max_running=9)
    decode = World(model, drafts=1)
    hand_over(prefill, decode, {"p77": GREEDILY["p77"]})
    decode.step()
    # The module is right most of the time, and it guessed on the other engine.
    assert len(decode.tokens["p77"]) == 3
    hand_over(prefill, decode, {n: a for n, a in GREEDILY.items() if n != "p77"})
    decode.run()
    prefill.assert_empty()
    for name, answer in said.items():
        decode.assert_says(name, answer)


def test_sampled_answers_are_handed_over(drafting: Any) -> None:
    plain = answered(drafting[1], SAMPLED, 0)
    prefill, decode = World(drafting[1], drafts=1), World(drafting[1], drafts=1)
    hand_over(prefill, decode, SAMPLED)
    decode.run()
    assert decode.tokens == plain.tokens


def test_found_blocks_and_taken_over_answers(drafting: Any) -> None:
    plain = answered(drafting[1], SAMPLED, 0)
    world = answered(drafting[1], SAMPLED, blocks=1000)
    for number, (name, (prompt, sampling)) in enumerate(SAMPLED.items()):
        given = plain.tokens[name][: 1 + number % 2]
        if len(given) < len(plain.tokens[name]):
            request = Request(f"again {name}", tuple(prompt), sampling)
            world.engine.add(emitted(request, given))
            world.tokens[f"again {name}"] = list(given)
    world.run()
    assert world.last["again hot"].cached_tokens > 0
    again = {n.removeprefix("again "): t for n, t in world.tokens.items() if "again" in n}
    assert again == {name: plain.tokens[name] for name in again}
    assert len(again) > 8


def test_the_distribution_is_the_models(drafting: Any) -> None:
    """Chi-square over many seeds: the second and third tokens, which drafts have a part in."""
    stats = pytest.importorskip("scipy.stats")
    stock, model = drafting
    prompt, kept, seeds = PROMPTS["p5"], 3, 500
    sampling = SamplingParams(temperature=0.7, top_k=kept, max_tokens=3)
    asked = {f"s{n}": (prompt, replace(sampling, seed=n)) for n in range(seeds)}
    world = answered(model, asked, step_tokens=2048, blocks=3000, max_running=256)
    found = Counter(tuple(tokens) for tokens in world.tokens.values())

    def after(tokens: Sequence[int]) -> list[tuple[int, float]]:
        with torch.no_grad():
            logits = stock(torch.tensor([[*prompt, *tokens]])).logits[0, -1].double()
        best = logits.topk(kept)
        shares = (best.values / 0.7).softmax(0).tolist()
        return list(zip(best.indices.tolist(), shares, strict=True))

    expected: dict[tuple[int, ...], float] = {}
    for first, p in after(()):
        for second, q in after((first,)):
            for third, r in after((first, second)):
                expected[first, second, third] = p * q * r
    assert set(found) <= set(expected)
    likely = [key for key, share in expected.items() if share * seeds >= 5]
    rest = 1.0 - sum(expected[key] for key in likely)
    counts = [found[key] for key in likely] + [seeds - sum(found[key] for key in likely)]
    shares = [*(expected[key] for key in likely), rest]
    cells = [(c, s * seeds) for c, s in zip(counts, shares, strict=True) if s * seeds > 1]
    scale = sum(c for c, _ in cells) / sum(e for _, e in cells)
    assert stats.chisquare([c for c, _ in cells], [e * scale for _, e in cells]).pvalue > 1e-3
    assert sum(world.batches) < 2.9 * seeds  # some outputs held two tokens


def test_a_model_without_a_module_has_no_drafts(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="no module for 1 drafts"):
        World(model, drafts=1)
