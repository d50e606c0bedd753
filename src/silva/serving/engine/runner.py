"""Carries out one plan: the model over the step's tokens, and a token for each request that wants one.

The runner knows no queue and decides nothing; it remembers of each request its tokens, its sampling
parameters and how far its grammar has come, so that a plan need only say what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from silva.control.request import Chunk, FinishReason, Plan, Request, Sampled, StepResult
from silva.errors import ServingError
from silva.kernels import Backend
from silva.models.language import LanguageModel
from silva.serving.engine.attend import attention_of
from silva.serving.engine.batch import Batch
from silva.serving.engine.grammar import GrammarError, Matcher
from silva.serving.engine.kv import KVMemory
from silva.serving.engine.sampler import Draws, Sampler


class NoTokenError(ServingError):
    """The model's logits allow no token for a request: they are no numbers, or all forbidden."""

    usual = "check the model's weights and the request's logit_bias"


@dataclass
class Executed:
    """What one plan came to."""

    result: StepResult
    sampled: list[Sampled] = field(default_factory=list)
    failed: dict[str, ServingError] = field(default_factory=dict)
    """Requests that were to be given a token and cannot go on. Nothing was appended to them."""


@dataclass(slots=True)
class Running:
    """One request as the runner knows it."""

    request: Request
    tokens: list[int]
    """Prompt and answer so far."""
    stops: frozenset[int]
    matcher: Matcher | None


class Runner:
    """Executes plans of one scheduler, in order. For one thread."""

    def __init__(
        self,
        model: LanguageModel,
        memory: KVMemory,
        clock: Callable[[], float],
        *,
        threads: int = 1,
        backend: Backend = "auto",
    ) -> None:
        """`clock`: seconds, to time the steps. `threads`: of the attention; torch has its own."""
        self.model, self.memory = model, memory
        self._clock, self._threads, self._backend = clock, threads, backend
        self.model_s = 0.0
        """Seconds in the model, of all steps."""
        self._batch = Batch()
        self._sampler = Sampler(model.config.vocab_size)
        self._sequences: dict[str, Running] = {}

    def add(self, request: Request, matcher: Matcher | None = None) -> None:
        """Know a request before any plan names it; `matcher` has taken what is emitted already."""
        if request.id in self._sequences:
            raise ValueError(f"request {request.id} is here already")
        tokens = [*request.prompt, *request.emitted]
        stops = frozenset(request.sampling.stop_token_ids)
        self._sequences[request.id] = Running(request, tokens, stops, matcher)

    def remove(self, request: str) -> None:
        """Forget a request; nothing happens if it is not known."""
        self._sequences.pop(request, None)
        self._forget(request)

    def tokens(self, request: str) -> Sequence[int]:
        """A request's prompt and answer so far; not to be changed."""
        return self._sequences[request].tokens

    @property
    def decoding(self) -> Sequence[str]:
        """Requests in the decoding batch."""
        return self._batch.names

    def apply(self, plan: Plan) -> None:
        """What a plan changes in the batch; `execute` does this first.

        Raises RuntimeError when plan and batch disagree afterwards: a plan was left out.
        """
        for request in plan.left:
            self._forget(request)
        for request, blocks in plan.blocks:
            if self._batch.slot(request) is None:
                self._enter(self._sequences[request])
            self._batch.append(request, blocks)
        for request in plan.joined:
            tokens = self._sequences[request].tokens
            self._batch.join(request, tokens[-1], len(tokens) - 1)
        if len(self._batch.names) != plan.decoding:
            raise RuntimeError(
                f"step {plan.step}: {len(self._batch.names)} requests decode, not {plan.decoding}"
            )

    def execute(self, plan: Plan) -> Executed:
        """Apply a plan and compute its step, if it has tokens.

        What the model raises goes through; the plan is applied then, and nothing was sampled.
        """
        start = self._clock()
        self.apply(plan)
        if not plan.tokens:
            return Executed(StepResult(plan.step, 0.0))
        names = [*self._batch.names, *(c.request for c in plan.chunks if c.samples)]
        logits = self._logits(plan.chunks, len(names))
        failed: dict[str, ServingError] = {}
        sampled: list[Sampled] = []
        finished: list[tuple[str, FinishReason]] = []
        if names:
            draws = self._sample(names, logits, self._masks(names, failed))
            for row in np.flatnonzero(draws.failed).tolist():
                what = f"request {names[row]}: the logits allow no token"
                failed.setdefault(names[row], NoTokenError(what))
            for name, token, logprob in zip(names, draws.tokens, draws.logprobs, strict=True):
                if name not in failed and self._give(name, token, failed):
                    finished.append((name, "stop"))
                if name not in failed:
                    sampled.append(Sampled(name, token, logprob))
        result = StepResult(plan.step, self._clock() - start, tuple(finished))
        return Executed(result, sampled, failed)

    def _enter(self, sequence: Running) -> None:
        request = sequence.request
        slot = self._batch.enter(request.id)
        given = sequence.tokens[len(request.prompt) :]
        self._sampler.put(slot, request.sampling, request.prompt, given)

    def _forget(self, request: str) -> None:
        slot = self._batch.forget(request)
        if slot is not None:
            self._sampler.drop(slot)

    def _logits(self, chunks: Sequence[Chunk], wanted: int) -> torch.Tensor:
        """Run the model over decoding rows, then chunks; float32 [wanted, vocab]."""
        batch, size = self._batch, self.memory.shape.block_tokens
        rows = batch.rows
        counts = np.array([1] * len(rows) + [c.stop - c.start for c in chunks], np.int32)
        slots = np.array([batch.slot(c.request) for c in chunks], np.int64)
        slots = np.concatenate([rows, slots])
        tokens, positions = [batch.tokens[rows]], [batch.positions[rows]]
        for chunk in chunks:
            known = self._sequences[chunk.request].tokens
            tokens.append(np.array(known[chunk.start : chunk.stop], np.int64))
            positions.append(np.arange(chunk.start, chunk.stop))
        at = np.concatenate(positions)
        ends = counts.cumsum(dtype=np.int32)
        contexts = (at[ends - 1] + 1).astype(np.int32)
        blocks = batch.table[np.repeat(slots, counts), at // size].astype(np.int64)
        attend = attention_of(self.memory)(
            self.memory,
            batch.table[slots, : -(-int(contexts.max()) // size)],
            np.concatenate([np.zeros(1, np.int32), ends]),
            contexts,
            blocks * size + at % size,
            self._threads,
            self._backend,
        )
        start = self._clock()
        with torch.inference_mode():
            hidden = self.model.hidden(
                torch.from_numpy(np.concatenate(tokens)), torch.from_numpy(at), attend
            )
            if wanted != len(at):
                sampling = [True] * len(rows) + [c.samples for c in chunks]
                hidden = hidden[torch.from_numpy(ends[sampling] - 1)]
            logits = self.model.logits(hidden)
        self.model_s += self._clock() - start
        return logits

    def _masks(
        self, names: Sequence[str], failed: dict[str, ServingError]
    ) -> dict[int, NDArray[np.bool_]]:
        """By row, what the grammars allow; a grammar that cannot go on fails its request."""
        masks = {}
        for row, name in enumerate(names):
            matcher = self._sequences[name].matcher
            if matcher is not None:
                try:
                    masks[row] = matcher.allowed()
                except GrammarError as error:
                    failed[name] = error
        return masks

    def _sample(
        self, names: Sequence[str], logits: torch.Tensor, masks: dict[int, NDArray[np.bool_]]
    ) -> Draws:
        batch = self._batch
        rows = batch.rows
        others = names[len(rows) :]
        slots = np.concatenate([rows, np.array([batch.slot(n) for n in others], np.int64)])
        lengths = np.array([len(self._sequences[n].tokens) for n in others], np.int64)
        positions = np.concatenate([batch.positions[rows] + 1, lengths])
        draws = self._sampler.sample(logits, slots, positions, masks)
        batch.tokens[rows] = draws.tokens[: len(rows)]
        batch.positions[rows] += 1
        return draws

    def _give(self, name: str, token: int, failed: dict[str, ServingError]) -> bool:
        """Append a token to its request; whether it ends the answer."""
        sequence = self._sequences[name]
        ends = token in sequence.stops
        if sequence.matcher is not None and not ends:
            try:
                sequence.matcher.take((token,))
                ends = sequence.matcher.ended
            except GrammarError as error:
                failed[name] = error
                return False
        sequence.tokens.append(token)
        return ends
