"""The step loop: schedule, execute, update; and what each step came to, told to a listener.

    engine = Engine(model, memory, settings, listener)
    engine.add(request)
    while engine.step():
        ...

One engine serves every role. A colocated server adds requests and hears `outputs`. A prefill peer adds
them with `hand_over`, hears `handed` and calls `release` when the blocks were read. A decode peer
calls `reserve`, reads the blocks, calls `commit` and hears `outputs` from the second token on.

An engine belongs to one thread (see loop.py for that thread). What goes wrong in one step ends the
requests of that step, each with an error to the listener, and the engine goes on; after
MAX_FAILED_STEPS in a row it raises, since then it is the engine that is broken and a new one, or
another peer, serves better.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from silva.control import fills, handover, scheduler
from silva.control.admission import Admission, admission
from silva.control.entry import Stage
from silva.control.handover import Reservation
from silva.control.measured import MeasuredStepTime
from silva.control.prefix import CacheIdentity, extend
from silva.control.request import (
    Phases,
    Plan,
    Request,
    Sampled,
    StepResult,
    StoredBlock,
)
from silva.control.scheduler import Ended, Update
from silva.control.state import Counts, Settings, State
from silva.errors import ServingError
from silva.kernels import Backend
from silva.models.language import LanguageModel
from silva.serving.engine.grammar import Grammars, Matcher
from silva.serving.engine.kv import KVMemory
from silva.serving.engine.listener import Handed, Listener
from silva.serving.engine.lost import lose
from silva.serving.engine.runner import Executed, Runner
from silva.serving.engine.spent import Spent
from silva.serving.engine.tiers import Tiers
from silva.serving.engine.tracked import Tracked, output_of

log = logging.getLogger("silva.engine")

MAX_FAILED_STEPS = 3
"""In a row; then the engine raises."""


class StepError(ServingError):
    """A step failed, and with it the requests that it computed."""

    usual = "try again; the server's log says more"


class Engine:
    """Scheduler, runner and memory of one process, and the loop over them."""

    def __init__(
        self,
        model: LanguageModel,
        memory: KVMemory,
        settings: Settings,
        listener: Listener,
        *,
        grammars: Grammars | None = None,
        step_time: MeasuredStepTime | None = None,
        clock: Callable[[], float] = time.monotonic,
        threads: int = 1,
        backend: Backend = "auto",
        numerics: str = "",
        tiers: Tiers | None = None,
    ) -> None:
        """`settings` must be of this memory; `clock` is that of the requests' `arrival_s`.

        `numerics`: what, beside type and drafts, makes the values in blocks other ones.
        Without `grammars`, requests that have one are refused, and without `tiers` those that have
        adapters. Raises ValueError.
        """
        shape = memory.shape
        if (settings.blocks, settings.block_tokens) != (memory.blocks, shape.block_tokens):
            raise ValueError("the settings are those of another memory")
        self.memory, self.listener, self.grammars = memory, listener, grammars
        self.state = State(settings)
        self.step_time = step_time or MeasuredStepTime()
        numerics = str(model.dtype).removeprefix("torch.") + numerics
        if settings.drafts:  # their layer is in the blocks too
            numerics += f" drafts={settings.drafts}"
        self.identity = CacheIdentity(model.digest, numerics, shape.block_tokens)
        self.runner = Runner(
            model,
            memory,
            clock,
            context_tokens=settings.context_tokens,
            drafts=settings.drafts,
            threads=threads,
            backend=backend,
            tiers=tiers,
        )
        self.spent = Spent()
        self._vocab_size = model.config.vocab_size
        self._clock = clock
        self._tracked: dict[str, Tracked] = {}
        self._failed_steps = 0
        self._admission: Admission | None = None

    # What an owner asks for.

    def add(
        self,
        request: Request,
        matcher: Matcher | None = None,
        *,
        hand_over: bool = False,
        lookup: bool = False,
    ) -> None:
        """Queue a request; see `scheduler.add`. What it emitted elsewhere is not told again.

        `matcher`: its grammar, which has taken what it emitted; compiled here where it is missing.
        Raises ServingError for a request that cannot be served, TierError among them, GrammarError,
        ValueError for an id in use. Nothing is remembered then.
        """
        self._check(request)
        keys = self.identity.keys(request)
        self._know(request, matcher, hand_over)
        try:
            scheduler.add(self.state, request, keys, hand_over=hand_over, lookup=lookup)
        except ValueError:
            self._forget(request.id)
            raise

    def reserve(self, request: Request) -> Reservation | None:
        """Blocks for a request that a prefill peer computes; None when there is no room now.

        Raises as `add` does.
        """
        self._check(request)
        keys = self.identity.keys(request)
        given = handover.reserve(self.state, request, keys, self.step_time)
        if given is not None:
            try:
                self.runner.expect(request)
            except ServingError:
                handover.abandon(self.state, request.id)
                raise
        return given

    def commit(
        self,
        request: Request,
        token: int,
        draft: int | None = None,
        matcher: Matcher | None = None,
    ) -> bool:
        """The blocks of a reservation hold the KV of prompt and emitted tokens, `token` comes next.

        `draft` is what the prefill peer guesses that follows it; `matcher` is as for `add`.
        The first output is that of the token after it. False when the request was cancelled
        meanwhile; its blocks are free then. Raises GrammarError; the reservation stays then, to be
        abandoned.
        """
        known = replace(request, emitted=(*request.emitted, token))
        if matcher is not None:
            matcher.take((token,))
        self._know(known, matcher, draft=-1 if draft is None else draft)
        if handover.commit(self.state, request.id):
            return True
        self._forget(request.id)
        return False

    def abandon(self, request: str) -> bool:
        """Give a reservation's blocks back; False when there is none."""
        if request not in self._tracked:
            self.runner.remove(request)
        return handover.abandon(self.state, request)

    def release(self, request: str) -> bool:
        """Give the blocks of a handed-over request back; False when it is not held."""
        return handover.release(self.state, request)

    def cancel(self, request: str) -> bool:
        """Forget a request wherever it stands; no output of it is told any more. False: unknown.

        What it was given so far stays to be found: a stop text or a client's leave ends it here.
        """
        learned = self._learn(request)
        self._forget(request)
        known = scheduler.cancel(self.state, request)
        if learned:
            self.listener.stored(learned)
        return known

    def counts(self) -> Counts:
        """Requests by where they stand, and blocks; O(1)."""
        return self.state.counts()

    def admission(self) -> Admission:
        """What the target for time per token lets in; some hundred predictions of a step."""
        told = admission(self.state, self.step_time, self.spent.tpot_s, self._admission)
        self._admission = told
        return told

    # One step.

    def step(self) -> bool:
        """Plan a step and compute it; False when there was nothing that could go on.

        Raises what the model raised when MAX_FAILED_STEPS in a row have failed; the requests of the
        last one were told.
        """
        now_s = self._clock()
        before = self.spent.turn(now_s)
        if before is not None:
            # Clients wait for the whole step, so a target counts policy and messages too.
            load, step_s = before
            self.step_time.observe(*load, step_s)
        plan = scheduler.schedule(self.state, now_s, self.step_time)
        self.spent.preempted += len(plan.preempted)
        begun = fills.lookups(self.state)
        if begun:
            self.listener.lookups(begun)
        try:
            executed = self.runner.execute(plan)
        except Exception as error:
            self._fail(plan, error)
            return True
        if not plan.tokens:
            # Blocks that were given back may let another request start.
            return bool(plan.left)
        self._failed_steps = 0
        seconds, right = executed.result.seconds, sum(n for _, n in executed.result.more)
        self.spent.computed(now_s, seconds, self.runner.model_s, self.state.load(), right)
        self.spent.drafted += executed.drafted
        lose(self.state, executed.failed)
        finished = (request for request, _ in executed.result.finished)
        over = dict.fromkeys((*scheduler.ending(self.state, executed.result.more), *finished))
        learned = [b for r in over if r not in executed.failed for b in self._learn(r)]
        update = scheduler.update(self.state, executed.result)
        self._tell(plan, executed, update, now_s)
        stored = learned + update.stored
        if stored:
            self.listener.stored(stored)
        return True

    def _check(self, request: Request) -> None:
        """Refuse what the kernels and the sampler could not digest; the API has checked before."""
        size, sampling = self._vocab_size, request.sampling
        tokens = (*request.prompt, *request.emitted, *(t for t, _ in sampling.logit_bias))
        if not tokens or not 0 <= min(tokens) <= max(tokens) < size:
            raise ServingError(f"request {request.id}: token ids must be from 0 to {size - 1}")
        if sampling.grammar and self.grammars is None:
            raise ServingError(f"request {request.id}: this server follows no grammars")

    def _know(
        self, request: Request, matcher: Matcher | None, hand_over: bool = False, draft: int = -1
    ) -> None:
        sampling = request.sampling
        if request.id in self._tracked:
            raise ValueError(f"request {request.id} is here already")
        if sampling.grammar and matcher is None and self.grammars is not None:
            matcher = self.grammars.matcher(sampling.grammar, request.emitted)
        self.runner.add(request, matcher, draft)
        root = self.identity.root(request.path, request.namespace)
        phases = Phases(arrival_s=request.arrival_s)
        self._tracked[request.id] = Tracked(request, root, hand_over, phases)

    def _forget(self, request: str) -> None:
        self._tracked.pop(request, None)
        self.runner.remove(request)

    def _learn(self, request: str) -> Sequence[StoredBlock]:
        """Let the next turn of a conversation find what a request that ends was given."""
        tracked, entry = self._tracked.get(request), self.state.entries.get(request)
        if tracked is None or entry is None or entry.stage is not Stage.DECODING:
            return ()
        # The token that a step in flight sampled has no KV.
        tokens = self.runner.tokens(request)[: self.state.length_of(entry)]
        keys = extend(tracked.root, entry.keys, tokens, self.identity.block_tokens)
        return scheduler.learn(self.state, request, keys)

    def _tell(self, plan: Plan, executed: Executed, update: Update, start_s: float) -> None:
        """Outputs, hand-overs and failures of one step."""
        end_s = self._clock()
        ended = {each.request: each for each in update.ended}
        first = frozenset(plan.joined)
        outputs = []
        for sampled in executed.sampled:
            tracked = self._tracked.get(sampled.request)
            if tracked is None:
                continue  # cancelled while it was in the step
            over = ended.get(sampled.request)
            if over is not None or not tracked.said or sampled.request in first:
                self._stamp(tracked, over, sampled.request in first, start_s, end_s)
            if tracked.hand_over:
                self._hand(tracked, sampled, over)
            else:
                outputs.append(output_of(tracked, sampled, over))
            if over is not None:
                self._forget(sampled.request)
        if outputs:
            self.listener.outputs(outputs)
        for request, error in executed.failed.items():
            self._drop(request, error)

    def _stamp(
        self, tracked: Tracked, over: Ended | None, joined: bool, start_s: float, end_s: float
    ) -> None:
        """Times of a request that passed a point in a step from `start_s` to `end_s`."""
        phases, name = tracked.phases, tracked.request.id
        if joined and phases.joined_s is None:
            phases = replace(phases, joined_s=start_s, first_decode_s=end_s)
        elif not tracked.said:
            began = self.state.entries[name].started_s if over is None else over.started_s
            phases = replace(phases, prefill_start_s=began, prefill_done_s=end_s)
        if over is not None:
            phases = replace(phases, finished_s=end_s)
            tracked.cached_tokens = over.cached_tokens
        elif not tracked.said:
            tracked.cached_tokens = self.state.cached_tokens(name)
        tracked.phases, tracked.said = phases, True

    def _hand(self, tracked: Tracked, sampled: Sampled, over: Ended | None) -> None:
        blocks = self.state.blocks_of(sampled.request) if over is None else ()
        finish = None if over is None else over.reason
        self._forget(sampled.request)
        self.listener.handed(Handed(sampled, blocks, tracked.cached_tokens, tracked.phases, finish))

    def _fail(self, plan: Plan, error: Exception) -> None:
        """A step that was planned was not computed: its requests end, the rest goes on."""
        log.error("step %d failed", plan.step, exc_info=error)
        self._failed_steps += 1
        entries = self.state.entries.items()
        decoding = [name for name, entry in entries if entry.stage is Stage.DECODING]
        chunks = [chunk.request for chunk in plan.chunks]
        requests = dict.fromkeys((*decoding, *self.runner.decoding, *chunks))
        what = f"the step failed: {type(error).__name__}: {str(error)[:200]}"
        lose(self.state, requests)
        if plan.tokens:
            scheduler.update(self.state, StepResult(plan.step, 0.0))
        for request in requests:
            self._drop(request, StepError(what))
        if self._failed_steps >= MAX_FAILED_STEPS:
            raise error

    def _drop(self, request: str, error: ServingError) -> None:
        """Tell that a request, which the scheduler has forgotten, is over."""
        known = request in self._tracked
        self._forget(request)
        if known:
            self.listener.failed(request, error)
