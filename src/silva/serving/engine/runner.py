"""Carries out one plan: the model over the step's tokens, and a token for each request that wants one.

With drafts (multi-token prediction, arXiv 2412.19437, section 2.2) a decoding request has two tokens in
the pass, its last one and a guess of the next. Where the guess turns out right, the logits after it
choose a second token in the same step.

The runner knows no queue and decides nothing; it remembers of each request its tokens, its sampling
parameters and how far its grammar has come, so that a plan need only say what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from silva.control.request import (
    Chunk,
    FinishReason,
    Plan,
    Request,
    Sampled,
    StepResult,
    TokenLogprob,
)
from silva.errors import ServingError
from silva.kernels import Backend
from silva.models.language import DraftingModel, LanguageModel
from silva.models.mixed import PackedTier
from silva.models.mixed_language import mixed
from silva.serving.engine.batch import Batch
from silva.serving.engine.grammar import GrammarError, Matcher
from silva.serving.engine.kv import KVMemory
from silva.serving.engine.mix import Mix
from silva.serving.engine.passes import Pass, pass_of
from silva.serving.engine.sampler import Sampler
from silva.serving.engine.tiers import Tiers


class NoTokenError(ServingError):
    """The model's logits allow no token for a request: they are no numbers, or all forbidden."""

    usual = "check the model's weights and the request's logit_bias"


@dataclass
class Executed:
    """What one plan came to."""

    result: StepResult
    sampled: list[Sampled] = field(default_factory=list)
    failed: dict[str, ServingError] = field(default_factory=dict)
    """Requests that were to be given a token and cannot go on. They are not in `sampled`."""
    drafted: int = 0
    """Guesses that were computed, right or wrong."""


@dataclass(slots=True)
class Running:
    """One request as the runner knows it."""

    request: Request
    tokens: list[int]
    """Prompt and answer so far."""
    stops: frozenset[int]
    matcher: Matcher | None
    limit: int
    """Length at which it ends."""
    draft: int = -1
    """A guess of the token that comes next, until it decodes."""


@dataclass(slots=True)
class _Made:
    """What a step has come to so far."""

    sampled: dict[str, Sampled] = field(default_factory=dict)
    finished: list[tuple[str, FinishReason]] = field(default_factory=list)
    failed: dict[str, ServingError] = field(default_factory=dict)

    def add(self, name: str, token: int, logprob: TokenLogprob | None) -> None:
        before, logprobs = self.sampled.get(name), () if logprob is None else (logprob,)
        if before is None:
            self.sampled[name] = Sampled(name, (token,), logprobs)
        else:
            self.sampled[name] = Sampled(
                name, (*before.tokens, token), (*before.logprobs, *logprobs)
            )


class Runner:
    """Executes plans of one scheduler, in order. For one thread."""

    def __init__(
        self,
        model: LanguageModel,
        memory: KVMemory,
        clock: Callable[[], float],
        *,
        context_tokens: int,
        drafts: int = 0,
        threads: int = 1,
        backend: Backend = "auto",
        tiers: Tiers | None = None,
    ) -> None:
        """`clock`: seconds, to time the steps. `threads`: of the attention; torch has its own.

        `drafts`: how many tokens are guessed ahead, 0 or 1. `tiers`: the adapters that requests may
        have. Raises ValueError for a model or a memory that has no module for drafts.
        """
        self.model, self.memory = model, memory
        self._clock, self._threads, self._backend = clock, threads, backend
        self._context_tokens = context_tokens
        self._drafter: DraftingModel | None = None
        layers = model.config.layers + drafts
        if not 0 <= drafts <= min(1, model.config.drafts) or layers != memory.shape.layers:
            raise ValueError(f"no memory or no module for {drafts} drafts")
        if drafts:
            assert isinstance(model, DraftingModel)
            self._drafter = model
        self.model_s = 0.0
        """Seconds in the model, of all steps."""
        self._batch, self._mix, self._tiers = Batch(), Mix(), tiers
        self._sampler = Sampler(model.config.vocab_size)
        self._sequences: dict[str, Running] = {}
        self._held: dict[str, tuple[tuple[str, ...], tuple[PackedTier, ...]]] = {}
        """Path and adapters of all requests that have any."""

    def add(self, request: Request, matcher: Matcher | None = None, draft: int = -1) -> None:
        """Know a request before any plan names it; `matcher` has taken what is emitted already.

        `draft`: what another runner guessed that comes next, -1 for nothing. Raises TierError where
        an adapter of its path cannot be had; nothing is remembered then.
        """
        if request.id in self._sequences:
            raise ValueError(f"request {request.id} is here already")
        self._hold(request)
        tokens = [*request.prompt, *request.emitted]
        stops = frozenset(request.sampling.stop_token_ids)
        limit = request.limit(self._context_tokens)
        self._sequences[request.id] = Running(request, tokens, stops, matcher, limit, draft)

    def remove(self, request: str) -> None:
        """Forget a request that was added or expected; nothing happens if it is not known."""
        self._sequences.pop(request, None)
        self._forget(request)
        path, _ = self._held.pop(request, ((), ()))
        if path and self._tiers is not None:
            self._tiers.release(path)

    def expect(self, request: Request) -> None:
        """Hold the adapters of a request that is added soon, or removed. Raises TierError."""
        self._hold(request)

    def _hold(self, request: Request) -> tuple[PackedTier, ...]:
        """The request's adapters, held once, until it is removed."""
        if not request.path:
            return ()
        if request.id not in self._held:
            if self._tiers is None:
                what = f"request {request.id} has adapters, and no forest is served"
                raise ServingError(what, remedy="serve one")
            self._held[request.id] = (request.path, self._tiers.hold(request.path))
        return self._held[request.id][1]

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
            one = self._sequences[request]
            last = len(one.tokens) - 1
            self._batch.join(request, one.tokens[-1], last, limit=one.limit, draft=one.draft)
            one.draft = -1
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
        chunks = [(c, self._sequences[c.request].tokens) for c in plan.chunks]
        names = [*self._batch.names, *(c.request for c in plan.chunks if c.samples)]
        step, made = pass_of(self._batch, chunks), _Made()
        hidden = self._hidden(step)
        right = self._choose(names, step, hidden, made)
        if self._drafter is not None:
            self._guess(self._drafter, names, step, hidden, right, chunks, made)
        more = [(n, len(s.tokens) - 1) for n, s in made.sampled.items() if len(s.tokens) > 1]
        seconds = self._clock() - start
        result = StepResult(plan.step, seconds, tuple(made.finished), tuple(more))
        return Executed(result, list(made.sampled.values()), made.failed, len(step.drafted))

    def _enter(self, sequence: Running) -> None:
        request = sequence.request
        slot = self._batch.enter(request.id)
        given = sequence.tokens[len(request.prompt) :]
        self._sampler.put(slot, request.sampling, request.prompt, given)
        self._mix.enter(slot, request.path, self._hold(request))

    def _forget(self, request: str) -> None:
        slot = self._batch.forget(request)
        if slot is not None:
            self._sampler.drop(slot)
            self._mix.leave(slot)

    def _hidden(self, step: Pass) -> torch.Tensor:
        """Run the model over a pass, in the order of its paths where it has any; [tokens, hidden]."""
        by_path = self._mix.sort(step)
        model, step = (
            (self.model, step)
            if by_path is None
            else (mixed(self.model, by_path.runs), by_path.step)
        )
        attend = step.attention(self._batch.table, self.memory, self._threads, self._backend)
        start = self._clock()
        with torch.inference_mode():
            hidden = model.hidden(
                torch.from_numpy(step.tokens), torch.from_numpy(step.positions), attend
            )
            if by_path is not None:
                hidden = by_path.back(hidden)
        self.model_s += self._clock() - start
        return hidden

    def _logits(self, hidden: torch.Tensor, places: NDArray[np.int32]) -> torch.Tensor:
        """Those of some of a pass's tokens; float32 [places, vocab]."""
        start = self._clock()
        with torch.inference_mode():
            if len(places) != len(hidden) or (np.diff(places) != 1).any():
                hidden = hidden[torch.from_numpy(places)]
            logits = self.model.logits(hidden)
        self.model_s += self._clock() - start
        return logits

    def _choose(
        self, names: Sequence[str], step: Pass, hidden: torch.Tensor, made: _Made
    ) -> NDArray[np.bool_]:
        """A token for all `names`, and a second one where the draft was right; which were.

        A token is drawn as if there were no drafts, and a draft is right if it is that token. So
        what a request is given does not depend on drafts, whatever its sampling parameters.
        """
        batch, rows = self._batch, self._batch.rows
        right = np.zeros(len(step.drafted), np.bool_)
        if not names:
            return right
        logits = self._logits(hidden, np.concatenate([step.chosen, step.seconds]))
        others = names[len(rows) :]
        slots = np.concatenate([rows, np.array([batch.slot(n) for n in others], np.int64)])
        lengths = np.array([len(self._sequences[n].tokens) for n in others], np.int64)
        positions = np.concatenate([batch.positions[rows] + 1, lengths])
        tokens = self._round(names, logits[: len(names)], slots, positions, made)
        batch.tokens[rows] = tokens[: len(rows)]
        batch.positions[rows] += 1
        if not len(right):
            return right
        over = made.failed.keys() | {name for name, _ in made.finished}
        right[:] = batch.tokens[rows[step.drafted]] == step.tokens[step.seconds]
        right &= [names[row] not in over for row in step.drafted.tolist()]
        again = step.drafted[right]
        if len(again):
            slots, some = rows[again], logits[len(names) :][torch.from_numpy(right)]
            known = [names[row] for row in again.tolist()]
            batch.tokens[slots] = self._round(known, some, slots, batch.positions[slots] + 1, made)
            batch.positions[slots] += 1
        return right

    def _round(
        self,
        names: Sequence[str],
        logits: torch.Tensor,
        slots: NDArray[np.int64],
        positions: NDArray[np.int64],
        made: _Made,
    ) -> list[int]:
        """One token for each of `names`, at these positions."""
        masks = self._masks(names, made.failed)
        draws = self._sampler.sample(logits, slots, positions, masks)
        for row in np.flatnonzero(draws.failed).tolist():
            what = f"request {names[row]}: the logits allow no token"
            made.failed.setdefault(names[row], NoTokenError(what))
        for name, token, logprob in zip(names, draws.tokens, draws.logprobs, strict=True):
            if name not in made.failed and self._give(name, token, made.failed):
                made.finished.append((name, "stop"))
            if name in made.failed:
                made.sampled.pop(name, None)
            else:
                made.add(name, token, logprob)
        return draws.tokens

    def _guess(
        self,
        model: DraftingModel,
        names: Sequence[str],
        step: Pass,
        hidden: torch.Tensor,
        right: NDArray[np.bool_],
        chunks: Sequence[tuple[Chunk, Sequence[int]]],
        made: _Made,
    ) -> None:
        """Compute the draft module where the next token is known, and keep its guesses."""
        batch, rows = self._batch, self._batch.rows
        left, kept = step.followed(self._following(step, right, chunks), right)
        attend = left.attention(batch.table, self.memory, self._threads, self._backend)
        start = self._clock()
        with torch.inference_mode():
            made_of = hidden if kept.all() else hidden[torch.from_numpy(kept)]
            tokens, positions = torch.from_numpy(left.tokens), torch.from_numpy(left.positions)
            drafted = model.draft(made_of, tokens, positions, attend)
            guesses = model.logits(drafted[torch.from_numpy(left.chosen)]).argmax(-1).numpy()
        self.model_s += self._clock() - start
        batch.drafts[rows] = guesses[: len(rows)]
        for name, guess in zip(names[len(rows) :], guesses[len(rows) :].tolist(), strict=True):
            self._sequences[name].draft = guess
            if name in made.sampled:
                made.sampled[name] = replace(made.sampled[name], draft=guess)

    def _following(
        self,
        step: Pass,
        right: NDArray[np.bool_],
        chunks: Sequence[tuple[Chunk, Sequence[int]]],
    ) -> NDArray[np.int64]:
        """The token after each of a pass; what stands after a wrong draft means nothing."""
        rows, seconds = self._batch.rows, step.seconds
        following = np.zeros(len(step.tokens), np.int64)
        following[step.chosen[: len(rows)]] = self._batch.tokens[rows]
        following[seconds] = self._batch.tokens[rows[step.drafted]]
        following[seconds[right] - 1] = step.tokens[seconds[right]]
        end = len(step.tokens) - sum(chunk.stop - chunk.start for chunk, _ in chunks)
        for chunk, known in chunks:
            # One short where the request was to be given a token and was not: it is over.
            after = known[chunk.start + 1 : chunk.stop + 1]
            following[end : end + len(after)] = after
            end += chunk.stop - chunk.start
        return following

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
