"""What prefill and decode peers have in common: an engine, its blocks, and the loop around it.

    receive -> proceed -> step -> report          (one thread; nobody else touches the engine)

Reading other peers' memory and asking the cache is the business of `cached.CacheClient`'s threads,
compiling grammars that of `compiler.Compiler`'s, telling that the process runs that of `heart.Heart`'s.
"""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch

from silva.control.admission import Admission
from silva.control.request import Request, StoredBlock
from silva.errors import ServingError
from silva.models.language import LanguageModel
from silva.models.language_loader import load_language_model
from silva.serving.engine.engine import StepError
from silva.serving.engine.grammar import Matcher
from silva.serving.engine.listener import Listener
from silva.serving.engine.tiers import TierError
from silva.serving.make_engine import make_engine
from silva.serving.peers.cached import CacheClient
from silva.serving.peers.compiler import Compiler
from silva.serving.peers.heart import Heart
from silva.serving.peers.offers import Offers
from silva.serving.peers.start import PeerStart
from silva.serving.wire.messages import (
    About,
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
from silva.transfer import Exposed, open_transfer

log = logging.getLogger("silva.peer")

STATUS_S = 0.5


class ComputingPeer(Listener, ABC):
    """See the module. Subclasses say what messages mean and hear what the engine tells."""

    role: ClassVar[Role]

    def __init__(self, start: PeerStart) -> None:
        self.start = start
        self.transfer = open_transfer(start.config.transfer, start.token)
        exposed: list[Exposed] = []

        def expose(size_bytes: int) -> memoryview:
            exposed.append(self.transfer.allocate(size_bytes))
            return exposed[0].buffer

        self.ray = Ray(address(start.folder, "hub"), start.identity, self.own_address())
        self.engine = make_engine(
            start.config,
            start.model,
            self,
            threads=start.threads,
            memory=expose,
            load=self.load_model,
        )
        self.memory, self.exposed = self.engine.memory, exposed[0]
        assert self.engine.grammars is not None
        self._compiler = Compiler(self.engine.grammars)
        block_bytes = self.memory.shape.block_bytes
        self.cache = CacheClient(self.ray, self.transfer, self.exposed, block_bytes)
        self._offers = Offers(self.engine.state, self.cache)
        self.requests: dict[str, Request] = {}
        """All attempts that are here, by attempt id; `Request.id` is that of the front."""
        self.counters: dict[str, float] = {"spoilt_transfers": 0}
        self._stopping = False
        self._told_s = 0.0

    # The loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop."""
        self.ray.send(Hello(self.start.name, self.role, os.getpid(), load=self._load()))
        heart = Heart(self.start)
        busy = True  # a rank that has just joined others keeps them waiting
        while not self._stopping:
            heart.turn()
            for _, message in self.ray.receive(0.0 if busy else STATUS_S):
                self._receive(message)
            self.proceed(time.monotonic())
            busy = self.compute()
            self._report()
        heart.close()
        self.close()

    def close(self) -> None:
        """End what runs beside the loop."""
        self._compiler.close()
        self.cache.close()
        self.transfer.close()
        self.ray.close()

    def _receive(self, message: AnyMessage) -> None:
        match message:
            case Members():
                self.cache.meet(message.caches)
            case Cancel():
                log.info("%s: the front needs it no longer", message.request)
                self.forget(attempt_id(message.request, message.attempt))
            case Stop():
                self._stopping = True
            case _:
                self.take(message)

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._told_s >= STATUS_S:
            self._told_s = now
            counters = {**self.counters, **self.engine.spent.told()}
            # what it says of a peer that computes prompts only is of no use
            admission = self.engine.admission() if self.role == "decode" else None
            self.ray.send(Status(self._load(admission), counters, admission))

    def _load(self, admission: Admission | None = None) -> Load:
        counts, settings = self.engine.counts(), self.engine.state.settings
        return Load(
            waiting=counts.waiting,
            running=counts.running,
            blocks_free=counts.blocks_free,
            blocks_used=counts.blocks_used,
            blocks_total=counts.blocks,
            # One number for the front and for whoever reads the status.
            most_running=admission.batch if admission else settings.max_running,
        )

    # Requests -------------------------------------------------------------------------------

    def known(self, request: Request) -> Request:
        """Remember an attempt; the request as the engine knows it."""
        inside = attempt_id(request.id, request.attempt)
        self.requests[inside] = request
        log.info(
            "%s: taken, attempt %d, %d tokens", request.id, request.attempt, len(request.prompt)
        )
        return replace(request, id=inside)

    def tell(self, message: About) -> None:
        """Send news of a request, and write it to the log under the request's id."""
        log.info("%s: %s", message.request, type(message).__name__.lower())
        self.ray.send(message)

    def compile(self, request: Request, then: Callable[[Matcher | None], None]) -> None:
        """`then(matcher)` once the request's grammar is ready, unless the request is gone by then;
        None for a request without.
        """
        if not request.sampling.grammar:
            then(None)
            return

        def ready(future: Future[Matcher]) -> None:
            if request.id not in self.requests:
                return
            error = future.exception()
            then(future.result()) if error is None else self.give_back(request.id, error)

        def done(future: Future[Matcher]) -> None:
            self.ray.call(lambda: ready(future))

        self._compiler.compile(request).add_done_callback(done)

    def give_back(self, inside: str, error: BaseException) -> None:
        """This attempt ends here: what the request itself is to blame for is told to the client,
        with anything else the front tries again.
        """
        request = self.requests.get(inside)
        if request is not None:
            ours = isinstance(error, StepError | TierError)
            to_blame = isinstance(error, ServingError) and not ours
            kind = Failed if to_blame else Rejected
            self.tell(kind(request.id, request.attempt, str(error)))
        self.forget(inside)

    def failed(self, request: str, error: ServingError) -> None:
        self.give_back(request, error)

    def forget(self, inside: str) -> None:
        """This attempt is over, or the front needs it no longer."""
        self.requests.pop(inside, None)
        self.engine.cancel(inside)

    def stored(self, blocks: Sequence[StoredBlock]) -> None:
        """Full blocks go to the cache: of prompts, and of what was answered to them."""
        self._offers.add(blocks)

    def load_model(self, folder: Path, dtype: torch.dtype) -> LanguageModel:
        """What the engine computes with."""
        return load_language_model(folder, dtype=dtype)

    def own_address(self) -> str | None:
        """Where it hears others than the front; None: nowhere."""
        return None

    def compute(self) -> bool:
        """One step; False when there is nothing to compute before something new is heard."""
        return self.engine.step()

    @abstractmethod
    def take(self, message: AnyMessage) -> None:
        """Act on a message of the front."""

    @abstractmethod
    def proceed(self, now_s: float) -> None:
        """Whatever can go on between two steps."""


def attempt_id(request: str, attempt: int) -> str:
    """The id by which one attempt is known inside a peer: two of them may overlap for a moment."""
    return f"{request}#{attempt}"
