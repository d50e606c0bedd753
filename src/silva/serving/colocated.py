"""The plain twin of the disaggregated server: prefill and decode in one engine of this process.

No hand-over, no cache peers; prefixes are shared within the engine's own pool.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from silva.control.request import Output, Request
from silva.errors import ServingError
from silva.serving.backend import (
    BusyError,
    CacheStatus,
    End,
    ModelCard,
    PeerState,
    PeerStatus,
    PoolStatus,
    Status,
    UnavailableError,
    UnservableError,
)
from silva.serving.catalogue import Catalogue
from silva.serving.config import ServeConfig
from silva.serving.engine.engine import StepError
from silva.serving.engine.listener import Listener
from silva.serving.engine.loop import EngineThread, StoppedError
from silva.serving.engine.tiers import TierError
from silva.serving.make_engine import make_engine
from silva.serving.one_process import OneProcess
from silva.serving.overview import spent

NAME = "engine"
REMEDY = "start the server without --colocated"


class Colocated(OneProcess):
    """A Backend over one engine: `open` it on the loop that uses it."""

    def __init__(self, config: ServeConfig, model: Path, cards: Sequence[ModelCard]) -> None:
        super().__init__("a colocated server has one engine", REMEDY)
        self._config, self._model = config, model
        self._catalogue = Catalogue(cards, config.unknown_client)
        self._thread: EngineThread | None = None
        self._closing = False
        self._waiting = 0
        self._counters = dict.fromkeys(("requests", "finished", "cancelled", "failed", "tokens"), 0)
        self._ends: dict[str, End] = {}
        """As what each request counts if it ends now."""

    async def open(self) -> None:
        """Load the model, beside the event loop, and start the engine."""
        loop = asyncio.get_running_loop()
        threads = self._config.threads or 0
        engine = await loop.run_in_executor(
            None, lambda: make_engine(self._config, self._model, Listener(), threads=threads)
        )
        self._thread = EngineThread(engine, deliver=loop.call_soon_threadsafe)
        self._thread.start()

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """See Backend."""
        thread = self._thread
        if thread is None or self._closing:
            raise UnavailableError("the server is stopping" if self._closing else "still loading")
        if self._waiting >= self._config.most_waiting:
            raise BusyError(f"{self._waiting} requests wait already")
        settings = thread.engine.state.settings
        if len(request.prompt) >= settings.context_tokens:
            raise UnservableError(
                f"{len(request.prompt)} tokens of prompt, but the engine holds "
                f"{settings.context_tokens} of prompt and answer"
            )
        heard: asyncio.Queue[Output | ServingError] = asyncio.Queue()
        self._counters["requests"] += 1
        self._waiting += 1
        self._ends[request.id] = "cancelled"
        started = over = False
        try:
            arrived = replace(request, arrival_s=time.monotonic())
            thread.submit(arrived, heard.put_nowait, heard.put_nowait)
            while not over:
                output = await heard.get()
                if isinstance(output, ServingError):
                    over, self._ends[request.id] = True, "failed"
                    raise _for_the_client(output)
                self._waiting -= not started
                started, over = True, output.finish is not None
                if over:
                    self._ends[request.id] = "finished"
                self._counters["tokens"] += len(output.tokens)
                yield output
        except StoppedError as error:
            self._ends[request.id] = "failed"
            raise UnavailableError(str(error)) from error
        finally:
            self._waiting -= not started
            self._counters[self._ends.pop(request.id)] += 1
            if not over:
                thread.cancel(request.id)

    def complete(self, request: str) -> None:
        """See Backend."""
        if request in self._ends:
            self._ends[request] = "finished"

    def models(self) -> Sequence[ModelCard]:
        return self._catalogue.cards

    def model(self, name: str) -> ModelCard | None:
        return self._catalogue.find(name)

    def offer(self, cards: Sequence[ModelCard]) -> None:
        """See Backend."""
        self._catalogue = Catalogue(cards, self._config.unknown_client)

    def ready(self) -> bool:
        return self._thread is not None and self._thread.alive and not self._closing

    def busy(self) -> bool:
        """Whether requests wait or are answered."""
        return bool(self._ends)

    def status(self) -> Status:
        """One peer with both roles; the cache is its own pool's."""
        if self._thread is None:
            return Status(counters=self._counters)
        counts = self._thread.counts
        numbers: dict[str, Any] = {
            "queue": counts.waiting,
            "running": counts.running,
            "blocks_free": counts.blocks_free,
            "blocks_used": counts.blocks_used,
            "blocks_total": counts.blocks,
            "admission": self._thread.admission,
        }
        steps = spent(self._thread.engine.spent.told())
        state: PeerState = "ready" if self.ready() else "draining"
        return Status(
            peers=(PeerStatus(NAME, "both", os.getpid(), state, **numbers, **steps),),
            pools={"both": PoolStatus(peers=1, ready=int(self.ready()), **numbers)},
            cache=CacheStatus(objects=counts.blocks_kept),
            counters=self._counters,
        )

    async def close(self, grace_s: float) -> None:
        """See Backend."""
        self._closing = True
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.stop, grace_s)


def _for_the_client(error: ServingError) -> Exception:
    if isinstance(error, StoppedError | StepError | TierError):
        return UnavailableError(error.what)
    return UnservableError(error.what, remedy=error.remedy)
