"""An engine over a tiny model, one step at a time, everything counted between; and the oracle."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))

from language_cases import random_hf, save_hf

from silva.control.integrity import check
from silva.control.request import FinishReason, Output, Request, SamplingParams, TokenLogprob
from silva.control.state import Settings
from silva.errors import ServingError
from silva.models.language import LanguageModel
from silva.models.language_loader import load_language_model
from silva.serving.engine.engine import Engine
from silva.serving.engine.kv import KVMemory, KVShape
from silva.serving.engine.listener import Handed, Listener
from silva.serving.engine.tiers import Tiers

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, logprobs=2)
TIE = 1e-4
CONTEXT = 256
BLOCK = 4


def tiny(folder: Path, family: str = "llama", **changes: Any) -> tuple[Any, LanguageModel]:
    """The same random model, stock and silva's."""
    changes = {"max_position_embeddings": CONTEXT, "eos_token_id": None, **changes}
    path = save_hf(folder, family, **changes)
    return random_hf(family, **changes), load_language_model(path)


def tokens_of(length: int, seed: int = 0, vocab: int = 97) -> tuple[int, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, vocab, (length,), generator=draw).tolist())


@dataclass(frozen=True)
class Expected:
    """What transformers says: greedy tokens, and log-probabilities of every one of them."""

    tokens: list[int]
    logprobs: list[float]
    tie: int
    """How many tokens come before the first near tie."""


def oracle(stock: Any, prompt: Sequence[int], count: int, eos: int | None = None) -> Expected:
    with torch.no_grad():
        out = stock.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=eos,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits = torch.cat(out.logits).double()
    tokens = out.sequences[0, len(prompt) :].tolist()
    best = logits.topk(2).values
    near = ((best[:, 0] - best[:, 1]) < TIE).nonzero()[:, 0].tolist()
    logprobs = logits.log_softmax(-1)[range(len(tokens)), tokens].tolist()
    return Expected(tokens, logprobs, min([*near, len(tokens)]))


class World(Listener):
    """An engine and all that was heard of it."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        blocks: int = 400,
        grammars: Any = None,
        backend: Any = "auto",
        threads: int = 1,
        tiers: Tiers | None = None,
        **settings: Any,
    ) -> None:
        drafts = settings.get("drafts", 0)
        shape = KVShape.of(model.config, BLOCK, model.dtype, drafts=drafts)
        chosen = {"blocks": blocks, "block_tokens": BLOCK, "context_tokens": CONTEXT}
        self.now_s = 0.0
        self.engine = Engine(
            model,
            KVMemory(shape, blocks),
            Settings(**{**chosen, **settings}),
            self,
            grammars=grammars,
            clock=self.clock,
            backend=backend,
            threads=threads,
            tiers=tiers,
        )
        self.tokens: dict[str, list[int]] = {}
        self.logprobs: dict[str, list[TokenLogprob]] = {}
        self.finish: dict[str, FinishReason] = {}
        self.last: dict[str, Output] = {}
        self.errors: dict[str, ServingError] = {}
        self.hand: list[Handed] = []
        self.batches: list[int] = []
        self.preempted = 0

    def clock(self) -> float:
        self.now_s += 0.25
        return self.now_s

    def outputs(self, outputs: Sequence[Output]) -> None:
        self.batches.append(len(outputs))
        for output in outputs:
            assert output.request not in self.finish
            self.tokens.setdefault(output.request, []).extend(output.tokens)
            self.logprobs.setdefault(output.request, []).extend(output.logprobs)
            self.last[output.request] = output
            if output.finish is not None:
                self.finish[output.request] = output.finish

    def failed(self, request: str, error: ServingError) -> None:
        assert request not in self.errors
        self.errors[request] = error

    def handed(self, handed: Handed) -> None:
        self.hand.append(handed)

    def ask(
        self, name: str, prompt: Sequence[int], sampling: SamplingParams = GREEDY, **how: Any
    ) -> Request:
        request = Request(name, tuple(prompt), sampling, arrival_s=self.now_s, **how)
        self.engine.add(request)
        return request

    def step(self) -> bool:
        entries = self.engine.state.entries
        before = {name: entry.preemptions for name, entry in entries.items()}
        busy = self.engine.step()
        check(self.engine.state)
        self.preempted += sum(e.preemptions - before.get(n, 0) for n, e in entries.items())
        return busy

    def run(self, most: int = 3000) -> None:
        """Until nothing is left to do; then everything must be back."""
        for _ in range(most):
            if not self.step():
                break
        else:
            raise AssertionError("it does not end")
        self.assert_empty()

    def assert_empty(self) -> None:
        counts = self.engine.counts()
        assert counts.blocks_free == counts.blocks and counts.blocks_used == 0
        assert not self.engine.state.entries and not self.engine._tracked
        assert not self.engine.runner._sequences and not self.engine.runner.decoding
        assert not self.engine.runner._batch._slots and not self.engine.runner._sampler._marks

    def assert_says(self, name: str, expected: Expected) -> None:
        """See `assert_agrees`."""
        assert_agrees(name, self.tokens[name], self.logprobs.get(name, ()), expected)


def assert_agrees(
    name: str, tokens: Sequence[int], logprobs: Sequence[TokenLogprob], expected: Expected
) -> None:
    """The tie rule: equal up to the first near tie, and log-probabilities to 1e-4."""
    tie = expected.tie
    assert list(tokens[:tie]) == expected.tokens[:tie], name
    if tie == len(expected.tokens):
        assert len(tokens) == tie
    for own, other in zip(logprobs[:tie], expected.logprobs, strict=False):
        assert abs(own.logprob - other) < TIE


def emitted(request: Request, tokens: Sequence[int]) -> Request:
    """The request as another peer takes it over."""
    return replace(request, emitted=tuple(tokens), attempt=request.attempt + 1)


def copy_blocks(source: Engine, blocks: Sequence[int], target: Engine, into: Sequence[int]) -> None:
    """What a transfer does, without the transfer."""
    for block, place in zip(blocks, into, strict=False):
        target.memory.block(place)[:] = source.memory.block(block)


def hand_over(
    prefill: World,
    decode: World,
    asked: Mapping[str, tuple[Sequence[int], SamplingParams]],
    **how: Any,
) -> None:
    """Prompts are computed on one engine, one after the other, and the rest is left to another."""
    for name, (prompt, sampling) in asked.items():
        request = Request(name, tuple(prompt), sampling, **how)
        given = decode.engine.reserve(request)
        assert given is not None
        prefill.engine.add(request, hand_over=True)
        while not prefill.hand:
            prefill.step()
            decode.step()
        handed = prefill.hand.pop()
        assert (handed.sampled.request, handed.finish) == (name, None)
        assert len(handed.blocks) == len(given.blocks)
        copy_blocks(
            prefill.engine, handed.blocks[given.ready :], decode.engine, given.blocks[given.ready :]
        )
        assert decode.engine.commit(request, handed.sampled.tokens[0], handed.sampled.draft)
        assert prefill.engine.release(name)
        decode.tokens[name] = [*handed.sampled.tokens]
        decode.logprobs[name] = [*handed.sampled.logprobs]
