"""What prefill and decode peers have in common: a model, blocks, a scheduler, and the loop.

    receive -> schedule -> execute -> update -> tell          (one thread; nobody else touches these)

Reading other peers' memory and asking the cache is the business of `cached.CacheClient`'s thread.
"""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from statistics import median
from typing import ClassVar

import torch

from silva.control.measured import MeasuredStepTime
from silva.control.prefix import CacheIdentity
from silva.control.request import Plan, Request, Sampled
from silva.control.scheduler import Update, cancel, schedule, update
from silva.control.slo import largest_batch
from silva.control.state import Settings, State
from silva.models.language_loader import load_language_model
from silva.serving.engine.grammar import Matcher
from silva.serving.engine.kv import KVMemory, KVShape
from silva.serving.engine.runner import Runner
from silva.serving.peers.cached import CacheClient
from silva.serving.peers.compiler import Compiler
from silva.serving.peers.start import PeerStart
from silva.serving.wire.messages import (
    AnyMessage,
    Cancel,
    Failed,
    Hello,
    Load,
    Members,
    Rejected,
    Role,
    Status,
    Stop,
)
from silva.serving.wire.star import Ray, address
from silva.transfer import open_transfer

log = logging.getLogger("silva.peer")

STATUS_S = 0.5


def attempt_id(request: str, attempt: int) -> str:
    """The id by which one attempt is known inside a peer: two of them may overlap for a moment."""
    return f"{request}#{attempt}"


class ComputingPeer(ABC):
    """See the module. Subclasses say what messages mean and whom a step's tokens go to."""

    role: ClassVar[Role]

    def __init__(self, start: PeerStart) -> None:
        torch.set_num_threads(start.threads)
        self.start, config = start, start.config
        dtype = getattr(torch, config.dtype)
        model = load_language_model(start.model, dtype=dtype)
        self.identity = CacheIdentity(model.digest, config.dtype, config.kv.block_tokens)
        shape = KVShape.of(model, config.kv.block_tokens)
        blocks = shape.blocks_in(config.kv.peer_bytes)
        self.transfer = open_transfer(config.transfer, start.token)
        self.exposed = self.transfer.allocate(blocks * shape.block_bytes)
        self.memory = KVMemory(shape, blocks, self.exposed.buffer)
        self.state = State(
            Settings(
                blocks=blocks,
                context_tokens=min(model.config.context, blocks * config.kv.block_tokens),
                block_tokens=config.kv.block_tokens,
                step_tokens=max(config.step.chunk_tokens, config.step.most_running),
                max_running=config.step.most_running,
                target_s=config.step.tpot_target_s or None,
            )
        )
        self.step_time = MeasuredStepTime()
        self._model = model
        self.runner = self._new_runner()
        self._compiler = Compiler(start.model, model.config)
        self.ray = Ray(address(start.folder, "hub"), start.identity)
        self.cache = CacheClient(self.ray, self.transfer, self.exposed, shape.block_bytes)
        self.requests: dict[str, Request] = {}
        """All attempts that are here, by attempt id; `Request.id` is that of the front."""
        self.counters: dict[str, float] = {"steps": 0, "tokens": 0, "failed_steps": 0}
        self._seconds: deque[float] = deque(maxlen=64)
        self._stopping = False
        self._told_s = 0.0
        self.reset()

    # The loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop."""
        self.ray.send(Hello(self.start.name, self.role, os.getpid(), load=self._load()))
        busy = False
        while not self._stopping:
            for _, message in self.ray.receive(0.0 if busy else STATUS_S):
                self._receive(message)
            self.proceed(time.monotonic())
            busy = self._step()
            self._report()
        self._compiler.close()
        self.cache.close()
        self.transfer.close()
        self.ray.close()

    def _receive(self, message: AnyMessage) -> None:
        match message:
            case Members():
                self.cache.meet(message.caches)
            case Cancel():
                self.forget(attempt_id(message.request, message.attempt))
            case Stop():
                self._stopping = True
            case _:
                self.take(message)

    def _step(self) -> bool:
        """One step, if there is anything to do; whether there was."""
        plan = schedule(self.state, time.monotonic(), self.step_time)
        try:
            done = self.runner.execute(plan)
        except Exception:
            # What the runner knows may be half of a step: nothing here is worth keeping.
            log.exception("step %d failed", plan.step)
            self.counters["failed_steps"] += 1
            self._start_over()
            return True
        if not plan.tokens:
            return False
        self.step_time.observe(*self.state.load(), done.result.seconds)
        self._seconds.append(done.result.seconds)
        self.counters["steps"] += 1
        self.counters["tokens"] += len(done.sampled)
        for inside, error in done.failed.items():
            self.fail(inside, str(error))
        self.tell(plan, done.sampled, update(self.state, done.result))
        return True

    def _new_runner(self) -> Runner:
        threads = self.start.threads
        return Runner(self._model, self.memory, time.monotonic, threads=threads)

    def _start_over(self) -> None:
        """Give all requests back to the front, which asks again elsewhere or later."""
        for request in list(self.requests.values()):
            self.ray.send(Rejected(request.id, request.attempt, "a step failed"))
        self.requests.clear()
        # Nothing may be read into blocks that the new state gives to others.
        self.cache.settle()
        self.state = State(self.state.settings)
        self.runner = self._new_runner()
        self.reset()

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._told_s >= STATUS_S:
            self._told_s = now
            self.ray.send(Status(self._load(), self.counters))

    def _load(self) -> Load:
        counts, settings = self.state.counts(), self.state.settings
        most = settings.max_running
        if settings.target_s is not None and counts.decoding:
            mean = self.state.context_tokens / counts.decoding
            most = max(1, largest_batch(self.step_time, settings.target_s, mean, most))
        return Load(
            waiting=counts.waiting,
            running=counts.running,
            blocks_free=counts.blocks_free,
            blocks_used=counts.blocks_used,
            blocks_total=counts.blocks,
            most_running=most,
            step_s=median(self._seconds) if self._seconds else 0.0,
        )

    # What subclasses use and say ---------------------------------------------------------------

    def known(self, request: Request) -> Request:
        """Remember an attempt; the request as the scheduler and the runner know it."""
        inside = attempt_id(request.id, request.attempt)
        self.requests[inside] = request
        return replace(request, id=inside)

    def compile(self, request: Request, then: Callable[[Matcher | None], None]) -> None:
        """`then(matcher)` once the request's grammar is ready, unless it is gone by then."""
        if not request.sampling.grammar:
            then(None)
            return

        def ready(matcher: Matcher | None, error: str) -> None:
            if request.id in self.requests:
                self.fail(request.id, error) if error else then(matcher)

        def done(future: Future[Matcher]) -> None:
            error = future.exception()
            matcher = None if error else future.result()
            self.ray.call(lambda: ready(matcher, str(error or "")))

        self._compiler.matcher(request).add_done_callback(done)

    def fail(self, inside: str, why: str) -> None:
        """This request cannot be served by anybody."""
        request = self.requests.get(inside)
        if request is not None:
            self.ray.send(Failed(request.id, request.attempt, why))
        self.forget(inside)

    def reject(self, inside: str, why: str) -> None:
        """This attempt has failed here."""
        request = self.requests.get(inside)
        if request is not None:
            self.ray.send(Rejected(request.id, request.attempt, why))
        self.forget(inside)

    def over(self, inside: str) -> None:
        """The scheduler has ended this attempt."""
        self.requests.pop(inside, None)
        self.runner.remove(inside)

    def forget(self, inside: str) -> None:
        """The front needs this attempt no longer."""
        self.requests.pop(inside, None)
        cancel(self.state, inside)
        self.runner.remove(inside)

    @abstractmethod
    def take(self, message: AnyMessage) -> None:
        """Act on a message of the front."""

    @abstractmethod
    def proceed(self, now_s: float) -> None:
        """Whatever can go on between two steps."""

    @abstractmethod
    def tell(self, plan: Plan, sampled: Sequence[Sampled], done: Update) -> None:
        """A step was made: tokens and ends go to the front, blocks to whoever wants them."""

    @abstractmethod
    def reset(self) -> None:
        """Start without requests."""
