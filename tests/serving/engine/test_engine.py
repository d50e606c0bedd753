"""The engine under everything that disturbs: hand-over, take-over, preemption, cancelling, failures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from engine_world import BLOCK, CONTEXT, GREEDY, World, copy_blocks, emitted, tokens_of

from silva.control import scheduler
from silva.control.request import Request, SamplingParams, StoredBlock
from silva.control.state import Settings
from silva.errors import ServingError
from silva.models.language import LanguageModel
from silva.serving.engine.engine import MAX_FAILED_STEPS, Engine, StepError
from silva.serving.engine.kv import KVMemory, KVShape
from silva.serving.engine.listener import Listener
from silva.serving.engine.runner import NoTokenError

KINDS = [
    GREEDY,
    SamplingParams(seed=1, max_tokens=24),
    SamplingParams(seed=2, top_p=0.8, max_tokens=20),
    SamplingParams(seed=3, top_k=7, presence_penalty=0.7, max_tokens=24, logprobs=0),
    SamplingParams(seed=4, min_p=0.05, frequency_penalty=0.3, repetition_penalty=1.2),
]
LENGTHS = (1, 6, 16, 29, 60)
ASKED = {f"r{n}-{k}": (tokens_of(n, n), kind) for n in LENGTHS for k, kind in enumerate(KINDS)}


@pytest.fixture(scope="session")
def said(model: LanguageModel) -> dict[str, list[int]]:
    """What an undisturbed engine says, each request by itself."""
    world = World(model, max_running=1)
    for name, (prompt, kind) in ASKED.items():
        world.ask(name, prompt, kind)
    world.run()
    return world.tokens


class Faulty:
    """A model that fails, or says nonsense, when it is told to."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.raises = 0
        self.nonsense: set[int] = set()
        """Last tokens after which the logits are no numbers."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def hidden(self, tokens: torch.Tensor, positions: torch.Tensor, attend: Any) -> torch.Tensor:
        hidden = self._model.hidden(tokens, positions, attend)
        if self.raises:
            self.raises -= 1
            # After the attention has written: what is in the blocks now must never be found.
            for layer in range(self.config.layers):
                attend.memory.values[layer][attend.places // BLOCK] = 7.0
            raise MemoryError("no memory for this step")
        bad = [int(token) in self.nonsense for token in tokens]
        return hidden.masked_fill(torch.tensor(bad)[:, None], torch.nan)


def test_sampled_answers_do_not_depend_on_company(model: LanguageModel, said: Any) -> None:
    for settings in ({"step_tokens": 9, "max_running": 8}, {"blocks": CONTEXT // 4}):
        world = World(model, **settings)
        for name, (prompt, kind) in ASKED.items():
            world.ask(name, prompt, kind)
        world.run()
        assert world.tokens == said
    assert world.preempted > 0


def test_a_take_over_goes_on_as_if_nothing_had_happened(model: LanguageModel, said: Any) -> None:
    world = World(model)
    for number, (name, (prompt, kind)) in enumerate(ASKED.items()):
        given = said[name][: 1 + number % 15]
        world.engine.add(emitted(Request(name, prompt, kind), given))
        world.tokens[name] = list(given)
    world.run()
    assert world.tokens == said


def test_hand_over_from_a_prefill_engine_to_a_decode_engine(
    model: LanguageModel, said: Any
) -> None:
    prefill, decode = World(model, step_tokens=40, max_running=9), World(model, blocks=900)
    for name, (prompt, kind) in ASKED.items():
        request = Request(name, prompt, kind)
        given = decode.engine.reserve(request)
        assert given is not None
        prefill.engine.add(request, hand_over=True)
        while not prefill.hand:
            prefill.step()
            decode.step()
        (handed,) = prefill.hand
        prefill.hand.clear()
        assert (handed.sampled.request, handed.finish) == (name, None)
        assert len(handed.blocks) == len(given.blocks) == -(-len(prompt) // 4)
        assert handed.phases.prefill_done_s is not None and handed.phases.joined_s is None
        copy_blocks(
            prefill.engine, handed.blocks[given.ready :], decode.engine, given.blocks[given.ready :]
        )
        assert prefill.engine.counts().held == 1
        assert decode.engine.commit(request, handed.sampled.tokens[0])
        assert prefill.engine.release(name)
        decode.tokens[name] = [*handed.sampled.tokens]
        decode.logprobs[name] = [*handed.sampled.logprobs]
    prefill.run()
    decode.run()
    assert decode.tokens == said
    assert prefill.tokens == {}
    assert decode.last["r60-0"].phases.joined_s is not None
    assert len(decode.logprobs["r6-0"]) == len(said["r6-0"])


def test_a_prompt_that_ends_at_once_is_handed_with_its_end(model: LanguageModel, said: Any) -> None:
    world = World(model)
    prompt = tokens_of(16, 16)
    for name, kind in (
        ("length", SamplingParams(temperature=0.0, max_tokens=1)),
        ("stop", SamplingParams(temperature=0.0, stop_token_ids=(said["r16-0"][0],))),
    ):
        world.engine.add(Request(name, prompt, kind), hand_over=True)
    world.run()
    assert {h.sampled.request: h.finish for h in world.hand} == {"length": "length", "stop": "stop"}
    assert {h.sampled.tokens[0] for h in world.hand} == {said["r16-0"][0]}
    assert all(h.blocks == () for h in world.hand)
    assert not world.engine.release("length")


def test_a_reservation_that_is_cancelled_or_abandoned_gives_back(model: LanguageModel) -> None:
    world = World(model)
    request = Request("a", tokens_of(20))
    assert world.engine.reserve(request) is not None
    assert world.engine.cancel("a")
    assert not world.engine.commit(request, 5)
    assert world.engine.reserve(request) is not None
    assert world.engine.abandon("a")
    world.run()
    small = World(model, blocks=CONTEXT // 4)
    small.ask("big", tokens_of(200))
    small.step()
    assert small.engine.reserve(Request("b", tokens_of(100, 3))) is None


def test_the_next_turn_finds_what_was_said(model: LanguageModel, expected: Any) -> None:
    world = World(model)
    prompt = tokens_of(30, 7)
    first = world.ask("turn 1", prompt)
    world.run()
    again = (*first.prompt, *world.tokens["turn 1"], *tokens_of(5, 8))
    world.ask("turn 2", again)
    world.run()
    # All full blocks but that of the answer's last token, which has no KV.
    assert world.last["turn 2"].cached_tokens == (30 + 24 - 1) // 4 * 4
    world.assert_says("turn 2", expected(again))


def test_what_was_said_before_a_cancel_is_found(model: LanguageModel, expected: Any) -> None:
    told: list[StoredBlock] = []
    world = World(model)
    world.stored = told.extend  # type: ignore[method-assign]
    prompt = tokens_of(30, 7)
    request = world.ask("stopped", prompt, namespace="one")
    while len(world.tokens.get("stopped", ())) < 20:
        world.step()
    told.clear()
    assert world.engine.cancel("stopped")
    known = (*prompt, *world.tokens["stopped"])
    # as a prefill peer would name them; the last token has no KV
    keys = world.engine.identity.keys(Request("other", known[:-1], namespace="one"))
    assert [each.key for each in told] == list(keys) and len(keys) == 12
    assert {each.namespace for each in told} == {"one"}
    assert not world.engine.cancel(request.id)
    world.ask("next", (*known, *tokens_of(5, 8)), namespace="one")
    world.ask("other", (*known, *tokens_of(5, 8)), namespace="two")
    world.run()
    assert world.last["next"].cached_tokens == 48 and world.last["other"].cached_tokens == 0
    for name in ("next", "other"):
        world.assert_says(name, expected((*known, *tokens_of(5, 8))))


def test_nothing_is_found_across_namespaces(model: LanguageModel) -> None:
    world = World(model)
    prompt = tokens_of(40)
    for name, where in (
        ("a", {"namespace": "one"}),
        ("b", {"namespace": "two"}),
        ("c", {"namespace": "one"}),
    ):
        world.ask(name, prompt, **where)
        world.run()
    assert [world.last[name].cached_tokens for name in "abc"] == [0, 0, 36]


@pytest.mark.parametrize("seed", range(3))
def test_cancelling_at_random_moments_loses_no_block(
    model: LanguageModel, said: Any, seed: int
) -> None:
    draw = random.Random(seed)
    world = World(model, blocks=90, step_tokens=24, max_running=10)
    left = list(ASKED)
    draw.shuffle(left)
    cancelled = set()
    while left or world.engine.state.entries:
        if left and draw.random() < 0.5:
            name = left.pop()
            world.ask(name, *ASKED[name])
        if draw.random() < 0.25 and world.engine.state.entries:
            name = draw.choice(list(world.engine.state.entries))
            assert world.engine.cancel(name)
            cancelled.add(name)
        world.step()
    world.run()
    assert cancelled and not world.engine.cancel("unknown")
    for name, tokens in said.items():
        if name in cancelled:
            assert name not in world.finish
            assert world.tokens.get(name, []) == tokens[: len(world.tokens.get(name, []))]
        else:
            assert world.tokens[name] == tokens


def test_a_listener_may_cancel_in_the_middle_of_the_news(model: LanguageModel) -> None:
    world = World(model)

    def outputs(heard: Any) -> None:
        World.outputs(world, heard)
        if "a" in world.tokens and len(world.tokens["a"]) == 3:
            world.engine.cancel("a")
            world.engine.cancel("b")

    world.outputs = outputs  # type: ignore[method-assign]
    for name in "abc":
        world.ask(name, tokens_of(9, ord(name)))
    world.run()
    assert len(world.tokens["a"]) == len(world.tokens["b"]) == 3
    assert world.finish == {"c": "length"}


def test_a_failed_step_ends_its_requests_and_nothing_of_it_is_found(
    model: LanguageModel, said: Any
) -> None:
    faulty = Faulty(model)
    world = World(faulty, step_tokens=40, max_running=8)  # type: ignore[arg-type]
    names = [name for name in ASKED if name.startswith("r60")]
    for name in names:
        world.ask(name, *ASKED[name])
    world.step()
    faulty.raises = 1
    world.step()
    failed = set(world.errors)
    assert failed and all(isinstance(e, StepError) for e in world.errors.values())
    assert "no memory for this step" in str(world.errors[min(failed)])
    assert failed != set(names)
    world.run()
    for name in names:
        world.ask(f"again {name}", *ASKED[name])
    world.run()
    for name in names:
        assert world.tokens[f"again {name}"] == said[name]
        assert name in failed or world.tokens[name] == said[name]


def test_who_waits_for_a_block_of_a_failed_step_computes_it_itself(
    model: LanguageModel, expected: Any
) -> None:
    faulty = Faulty(model)
    world = World(faulty, step_tokens=256)  # type: ignore[arg-type]
    prompt = tokens_of(60, 60)
    world.ask("first", prompt)
    world.ask("waits", prompt)
    faulty.raises = 1
    world.run()
    assert set(world.errors) == {"first"}
    assert world.last["waits"].cached_tokens == 0
    world.assert_says("waits", expected(prompt))


def test_the_engine_gives_up_after_some_failed_steps_in_a_row(model: LanguageModel) -> None:
    faulty = Faulty(model)
    world = World(faulty)  # type: ignore[arg-type]
    for number in range(MAX_FAILED_STEPS):
        world.ask(f"r{number}", tokens_of(9, number))
        faulty.raises = 1
        if number < MAX_FAILED_STEPS - 1:
            world.step()
        else:
            with pytest.raises(MemoryError):
                world.step()
    assert len(world.errors) == MAX_FAILED_STEPS
    world.step()
    world.assert_empty()


def test_logits_that_are_no_numbers_fail_their_request_alone(
    model: LanguageModel, said: Any
) -> None:
    faulty = Faulty(model)
    world = World(faulty)  # type: ignore[arg-type]
    victim, other = "r16-0", "r6-1"
    faulty.nonsense = {said[victim][2]} - {*said[other], *ASKED[other][0]}
    assert faulty.nonsense
    for name in (victim, other):
        world.ask(name, *ASKED[name])
    world.run()
    assert isinstance(world.errors[victim], NoTokenError)
    assert world.tokens[victim] == said[victim][: said[victim].index(said[victim][2]) + 1]
    assert world.tokens[other] == said[other]


def test_what_cannot_be_served_is_refused_and_forgotten(model: LanguageModel) -> None:
    world = World(model)
    grammar = SamplingParams(grammar="start: /a/")
    biased = SamplingParams(logit_bias=((97, 1.0),))
    for prompt, kind, match in (
        ((1, 97), GREEDY, "from 0 to 96"),
        ((1, -1), GREEDY, "from 0 to 96"),
        ((1,), biased, "from 0 to 96"),
        ((), GREEDY, "from 0 to 96"),
        ((1,), grammar, "follows no grammars"),
    ):
        with pytest.raises(ServingError, match=match):
            world.ask("a", prompt, kind)
    with pytest.raises(ValueError, match="may have 256"):
        world.ask("a", tokens_of(CONTEXT))
    world.ask("a", (1, 2))
    with pytest.raises(ValueError, match="here already"):
        world.ask("a", (1, 2))
    world.run()
    assert len(world.tokens["a"]) == 24


def test_settings_of_another_memory_are_refused(model: LanguageModel) -> None:
    memory = KVMemory(KVShape.of(model.config, 4, model.dtype), 10)
    for blocks, size in ((11, 4), (10, 8)):
        settings = Settings(blocks, 20, size)
        with pytest.raises(ValueError, match="another memory"):
            Engine(model, memory, settings, Listener())


def test_new_blocks_are_told_and_may_be_pinned(model: LanguageModel) -> None:
    world = World(model, step_tokens=16, max_running=4)
    told: list[StoredBlock] = []

    def stored(blocks: Sequence[StoredBlock]) -> None:
        told.extend(blocks)
        scheduler.pin(world.engine.state, [each.block for each in blocks])

    world.stored = stored  # type: ignore[method-assign]
    request = world.ask("a", tokens_of(30))
    while world.step():
        pass
    keys = world.engine.identity.keys(emitted(request, world.tokens["a"]))
    # the prompt's when they are computed, and all of them at the end
    assert [each.key for each in told] == [*keys[:7], *keys[:13]]
    assert told[:7] == told[7:14]
    assert world.engine.counts().blocks_used == 13
    scheduler.unpin(world.engine.state, [each.block for each in told])
    world.run()
