"""The thread of an engine: takes orders between steps, computes while there is work, else sleeps.

thread = EngineThread(engine, deliver=loop.call_soon_threadsafe)
thread.start()
thread.submit(request, on_output, on_error)
thread.stop(grace_s=30)
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from silva.control.admission import Admission
from silva.control.request import Output, Request
from silva.control.state import Counts
from silva.errors import ServingError
from silva.serving.engine.engine import Engine
from silva.serving.engine.grammar import Grammars, Matcher
from silva.serving.engine.listener import Listener

log = logging.getLogger("silva.engine")

OnOutput = Callable[[Output], None]
OnError = Callable[[ServingError], None]
Deliver = Callable[[Callable[[], None]], object]

LOOK_S = 0.5
"""What a target lets in is worked out so often."""


class StoppedError(ServingError):
    """The engine takes no requests any more, or ended before this one did."""

    usual = "try again later"


@dataclass(frozen=True)
class _Owner:
    on_output: OnOutput
    on_error: OnError


class EngineThread(Listener):
    """Runs one engine, of which it is the listener. All methods but `run` are for any thread.

    What a step gave is handed to `deliver` as one call, so that an event loop is woken once a step.
    """

    def __init__(self, engine: Engine, deliver: Deliver | None = None) -> None:
        """`deliver` runs what it is given, soon and in order; by default at once, on the thread."""
        self.engine = engine
        engine.listener = self
        self._deliver: Deliver = deliver or (lambda work: work())
        self._owners: dict[str, _Owner] = {}
        self._running: dict[str, _Owner] = {}
        """Whose requests the engine has; a cancelled one's until the engine has forgotten it."""
        self._orders: deque[Callable[[], object]] = deque()
        self._wake = threading.Condition()
        self._stopping = self._ended = False
        self._deadline_s = 0.0
        self._counts, self._admission = engine.counts(), engine.admission()
        self._look_again_s = 0.0
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._thread = threading.Thread(target=self.run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether a request submitted now would be computed."""
        return self._thread.is_alive() and not self._stopping and not self._ended

    @property
    def counts(self) -> Counts:
        """As after the last step."""
        return self._counts

    @property
    def admission(self) -> Admission:
        """As half a second ago, or as when there was nothing left to compute."""
        return self._admission

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def submit(self, request: Request, on_output: OnOutput, on_error: OnError) -> None:
        """Serve a request: outputs in order until one has `finish`, or one error.

        Both are called through `deliver`. A grammar is compiled beside the steps first. Raises
        StoppedError, and ValueError for an id in use.
        """
        owner, grammars = _Owner(on_output, on_error), self.engine.grammars
        with self._wake:
            if self._stopping or self._ended:
                raise StoppedError("the server is stopping")
            if request.id in self._owners:
                raise ValueError(f"request {request.id} is here already")
            self._owners[request.id] = owner
        if request.sampling.grammar and grammars is not None:
            self._compiler.submit(self._compile, request, owner, grammars)
        else:
            self._order(lambda: self._add(request, owner))

    def cancel(self, request: str) -> None:
        """Forget a request; nothing is delivered of it that is not on its way already.

        Its id may be used again at once.
        """
        self._owners.pop(request, None)
        # Orders are carried out as they came: an id that is submitted anew is added after this.
        self._order(partial(self._forget, request))

    def call(self, work: Callable[[], object]) -> None:
        """Run `work` on the engine's thread before the next step; what it raises ends the engine.

        Nothing happens once the engine has ended.
        """
        self._order(work)

    def stop(self, grace_s: float = 0.0) -> None:
        """Take nothing new, let what runs finish for up to `grace_s`, cancel the rest; waits."""
        with self._wake:
            self._deadline_s = time.monotonic() + grace_s
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._compiler.shutdown(wait=True, cancel_futures=True)

    def run(self) -> None:
        """The loop; returns when stopped. What the engine raises ends all requests and is logged."""
        why = "the server stopped before the answer was complete"
        try:
            busy = True
            while self._next(busy):
                busy = self.engine.step()
                self._look(busy)
        except Exception as error:
            log.critical("the engine ends", exc_info=error)
            why = f"the engine ended: {type(error).__name__}: {str(error)[:200]}"
        with self._wake:
            self._ended = True
        for request in list(self._owners):
            self.engine.cancel(request)
            self._error(request, StoppedError(why))
        self._counts = self.engine.counts()

    # What the engine tells.

    def outputs(self, outputs: Sequence[Output]) -> None:
        told = []
        for output in outputs:
            over = output.finish is not None
            owner = (self._running.pop if over else self._running.get)(output.request, None)
            if owner is not None and self._owners.get(output.request) is owner:
                told.append((owner, output))
                if over:
                    self._owners.pop(output.request, None)
        self._deliver(lambda: _give(told))

    def failed(self, request: str, error: ServingError) -> None:
        owner = self._running.pop(request, None)
        if owner is not None:
            self._refuse(request, owner, error)

    # On the engine's thread.

    def _look(self, busy: bool) -> None:
        """Renew what others may read of the engine."""
        self._counts, now_s = self.engine.counts(), time.monotonic()
        unknown = not self._admission.trades  # nothing was decoded yet
        if not busy or unknown or now_s >= self._look_again_s:
            self._look_again_s = now_s + LOOK_S
            self._admission = self.engine.admission()

    def _next(self, busy: bool) -> bool:
        """Carry out orders, waiting for one if there is nothing to compute; False: it is over."""
        while True:
            with self._wake:
                while not (self._orders or busy or self._stopping):
                    self._wake.wait()
                orders = list(self._orders)
                self._orders.clear()
                stopping = self._stopping
            for order in orders:
                order()
            if not stopping:
                return True
            left_s = self._deadline_s - time.monotonic()
            if not self._owners or left_s <= 0:
                return False
            if busy or orders:
                return True
            with self._wake:
                if not self._orders:
                    self._wake.wait(left_s)  # for a grammar, or for blocks on their way

    def _order(self, work: Callable[[], object]) -> None:
        with self._wake:
            if not self._ended:
                self._orders.append(work)
                self._wake.notify()

    def _compile(self, request: Request, owner: _Owner, grammars: Grammars) -> None:
        """On a thread of its own: have the grammar ready when the request is added."""
        try:
            matcher = grammars.matcher(request.sampling.grammar, request.emitted)
        except ServingError as error:
            failure = error
            self._order(lambda: self._refuse(request.id, owner, failure))
        else:
            self._order(lambda: self._add(request, owner, matcher))

    def _add(self, request: Request, owner: _Owner, matcher: Matcher | None = None) -> None:
        if self._owners.get(request.id) is not owner:
            return  # cancelled meanwhile
        try:
            self.engine.add(request, matcher)
            self._running[request.id] = owner
        except ServingError as error:
            self._refuse(request.id, owner, error)
        except ValueError as error:
            self._refuse(request.id, owner, ServingError(str(error)))

    def _forget(self, request: str) -> None:
        self._running.pop(request, None)
        self.engine.cancel(request)

    def _refuse(self, request: str, owner: _Owner, error: ServingError) -> None:
        if self._owners.get(request) is owner:
            self._error(request, error)

    def _error(self, request: str, error: ServingError) -> None:
        owner = self._owners.pop(request, None)
        if owner is not None:
            self._deliver(lambda: owner.on_error(error))


def _give(told: Sequence[tuple[_Owner, Output]]) -> None:
    for owner, output in told:
        owner.on_output(output)
