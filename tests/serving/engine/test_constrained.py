"""Answers under a grammar, through the whole engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llguidance")
sys.path.insert(0, str(Path(__file__).parent))

from engine_world import CONTEXT, World, emitted, tiny, tokens_of
from llguidance import LLMatcher
from test_grammar import END, SCHEMA, TOKENIZER, byte_tokenizer

from silva.control.request import Request, SamplingParams
from silva.models.language import LanguageModel
from silva.serving.engine.grammar import GrammarError, Grammars

VOCAB = 300
GRAMMAR = LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA))
FREE = SamplingParams(seed=9, max_tokens=20)


def json_of(seed: int) -> SamplingParams:
    return SamplingParams(
        seed=seed,
        max_tokens=120,
        grammar=GRAMMAR,
        logit_bias=((TOKENIZER.encode(",").ids[0], 9.0),),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return tiny(tmp_path_factory.mktemp("bytes") / "m", vocab_size=VOCAB)[1]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(byte_tokenizer(), VOCAB, [END])


def run(model: LanguageModel, grammars: Grammars, **settings: Any) -> World:
    world = World(model, grammars=grammars, **settings)
    for seed in range(6):
        world.ask(f"json {seed}", tokens_of(10, seed), json_of(seed))
        world.ask(f"free {seed}", tokens_of(10, seed), FREE)
    world.run()
    return world


def test_answers_follow_the_schema_and_others_do_not_notice(
    model: LanguageModel, grammars: Grammars
) -> None:
    world = run(model, grammars)
    for seed in range(6):
        if world.finish[f"json {seed}"] == "stop":
            answer = json.loads(TOKENIZER.decode(world.tokens[f"json {seed}"]))
            assert set(answer) == {"name", "n"}
    assert "stop" in world.finish.values()
    alone = World(model)
    alone.ask("free 2", tokens_of(10, 2), FREE)
    alone.run()
    assert alone.tokens["free 2"] == world.tokens["free 2"]


def test_preempted_and_taken_over_they_go_on_the_same(
    model: LanguageModel, grammars: Grammars
) -> None:
    undisturbed = run(model, grammars)
    tight = run(model, grammars, blocks=CONTEXT // 4)
    assert tight.preempted > 0 and tight.tokens == undisturbed.tokens
    world = World(model, grammars=grammars)
    for seed in range(6):
        name = f"json {seed}"
        given = undisturbed.tokens[name][: 2 * seed]
        world.engine.add(emitted(Request(name, tokens_of(10, seed), json_of(seed)), given))
        world.tokens[name] = list(given)
    world.run()
    assert world.tokens == {n: t for n, t in undisturbed.tokens.items() if n.startswith("json")}


def test_a_grammar_that_is_none_or_is_broken_already_is_refused(
    model: LanguageModel, grammars: Grammars
) -> None:
    world = World(model, grammars=grammars)
    with pytest.raises(GrammarError):
        world.ask("a", (1, 2), SamplingParams(grammar="no grammar"))
    with pytest.raises(GrammarError):
        world.engine.add(emitted(Request("a", (1, 2), json_of(0)), TOKENIZER.encode("[").ids))
    assert world.engine.reserve(Request("b", (1, 2), json_of(0))) is not None
    with pytest.raises(GrammarError):
        world.engine.commit(Request("b", (1, 2), json_of(0)), TOKENIZER.encode("[").ids[0])
    assert world.engine.abandon("b")
    world.run()


def test_a_matcher_that_is_brought_along_is_not_made_again(
    model: LanguageModel, grammars: Grammars
) -> None:
    undisturbed = run(model, grammars)
    name = max(undisturbed.tokens, key=lambda n: len(undisturbed.tokens[n]) * n.startswith("json"))
    said, seed = undisturbed.tokens[name], int(name.split()[1])
    request = emitted(Request(name, tokens_of(10, seed), json_of(seed)), said[:2])

    class Nobody(Grammars):
        def matcher(self, grammar: str, given: Any = ()) -> Any:
            raise AssertionError("asked between steps")

    nobody = Nobody(byte_tokenizer(), VOCAB, [END])
    world = World(model, grammars=nobody)
    world.engine.add(request, grammars.matcher(GRAMMAR, request.emitted))
    world.tokens[name] = list(said[:2])
    world.run()
    assert world.tokens[name] == said
    matcher = grammars.matcher(GRAMMAR, request.emitted)
    decode = World(model, grammars=nobody)
    assert decode.engine.reserve(request) is not None
    assert decode.engine.commit(request, said[2], None, matcher)
    assert np.array_equal(matcher.allowed(), grammars.matcher(GRAMMAR, said[:3]).allowed())


def test_a_grammar_that_forbids_everything_at_hand_fails_its_request_alone(
    model: LanguageModel, grammars: Grammars
) -> None:
    world = World(model, grammars=grammars)
    world.ask("free", tokens_of(4), FREE)
    world.ask("stuck", tokens_of(4), json_of(1))
    world.step()
    matcher = world.engine.runner._sequences["stuck"].matcher
    assert matcher is not None
    matcher._matcher.consume_tokens([TOKENIZER.encode("]").ids[0]] * 3)  # breaks it
    world.run()
    assert isinstance(world.errors["stuck"], GrammarError)
    assert world.finish == {"free": "length"}
