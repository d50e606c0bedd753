"""Leaves that are tuned while the server answers: one at a time, and only while it has little to do.

Examples are in memory, of this process and of the one that tunes, until the leaf is live, has failed or
its client is erased. Everything here belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

from silva.adapters.codec import decode_tier
from silva.adapters.forest import Forest
from silva.adapters.objects import decode_tensors
from silva.adapters.tiers import Tier
from silva.errors import SilvaError
from silva.serving.backend import BusyError, ModelCard, UnavailableError
from silva.serving.live_forest import LiveForest
from silva.serving.newcomers import LeafTuner
from silva.serving.training_process import TUNER, TrainingProcess
from silva.serving.training_work import LeafWork

log = logging.getLogger("silva.tunings")

MOST_UNFINISHED = 4
"""Leaves that are tuned or wait for it; each holds a client's examples."""
MOST_TOLD = 32
"""Leaves whose end is remembered, the latest."""
PATIENCE_S = 2.0
"""So long a pass waits for a moment without requests: a server that always has some tunes slowly."""
LOOK_S = 0.01
RETRY_S = 10.0
NOTHING = ()


@dataclass
class Tuning:
    """One leaf. forest: the version in which its client is and has none; rows: of training data."""

    forest: Forest
    client: str
    examples: Sized
    rows: int
    state: Literal["queued", "tuning", "live", "failed"] = "queued"
    done: int = 0
    passes: int = 0
    why: str = ""
    wanted: bool = True
    process: TrainingProcess | None = None

    @property
    def unfinished(self) -> bool:
        return self.state in ("queued", "tuning")

    def told(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "client": self.client,
            "state": self.state,
            "done": self.done,
            "passes": self.passes,
            "why": self.why,
        }


class Tunings:
    """See the module."""

    def __init__(
        self,
        live: LiveForest,
        tuner: LeafTuner[Any],
        busy: Callable[[], bool],
        offer: Callable[[Sequence[ModelCard]], None],
    ) -> None:
        """busy: whether requests wait or run; offer: says which models can be asked from now on."""
        self._live, self._tuner = live, tuner
        self._busy, self._offer = busy, offer
        self._known: dict[str, Tuning] = {}
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    def check_room(self) -> None:
        """Raises BusyError while as many leaves as may be are not finished."""
        if self._closed:
            raise UnavailableError("the server is stopping")
        unfinished = sum(each.unfinished for each in self._known.values())
        if unfinished >= MOST_UNFINISHED:
            raise BusyError(f"{unfinished} leaves wait to be tuned", retry_after_s=RETRY_S)

    def begin(self, forest: Forest, client: str, examples: Sized, rows: int) -> None:
        """Tune a leaf for a client that has none in this version. Raises BusyError."""
        self.check_room()
        self.forget(client)
        self._known[client] = Tuning(forest, client, examples, rows)
        ended = [each.client for each in self._known.values() if not each.unfinished]
        for name in ended[:-MOST_TOLD]:
            del self._known[name]
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    def unfinished(self, client: str) -> bool:
        """Whether a leaf of this client waits or is tuned."""
        return client in self._known and self._known[client].unfinished

    def forget(self, client: str) -> None:
        """Tune no leaf for this client, if one waits or is tuned, and tell nothing of it."""
        found = self._known.pop(client, None)
        if found is not None:
            found.wanted, found.examples = False, NOTHING
            if found.process is not None:
                found.process.kill()

    def told(self) -> list[dict[str, Any]]:
        """The state of every leaf that is known, oldest first."""
        return [each.told() for each in self._known.values()]

    async def close(self) -> None:
        """End what is tuned and forget all examples."""
        self._closed = True
        for client in [*self._known]:
            self.forget(client)
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        while waiting := [each for each in self._known.values() if each.state == "queued"]:
            tuning = waiting[0]
            tuning.state = "tuning"
            try:
                await self._tune(tuning)
                tuning.state = "live"
            except Exception as error:
                tuning.state, tuning.why = "failed", str(error)
                if tuning.wanted:
                    expected = isinstance(error, SilvaError)
                    log.warning("no leaf of %s: %s", tuning.client, error, exc_info=not expected)
            finally:
                tuning.examples = NOTHING

    async def _tune(self, tuning: Tuning) -> None:
        """From examples to a leaf that is answered with."""
        process = await asyncio.to_thread(TrainingProcess, TUNER)
        tuning.process = process
        try:
            if not tuning.wanted:
                return
            await asyncio.to_thread(
                process.begin,
                LeafWork(self._tuner),
                tuning.forest,
                tuning.client,
                tuning.examples,
            )
            leaf = await self._heard(tuning, process)
        finally:
            tuning.process = None
            await asyncio.to_thread(process.close)
        if tuning.wanted:
            add = self._live.add_leaf
            await asyncio.to_thread(add, tuning.forest, tuning.client, leaf, tuning.rows)
            self._offer(self._live.cards)

    async def _heard(self, tuning: Tuning, process: TrainingProcess) -> Tier:
        while True:
            word = await asyncio.to_thread(process.hear)
            if isinstance(word, bytes):
                tuning.done = tuning.passes
                return decode_tier(decode_tensors(word, "the leaf"), "the leaf")
            tuning.done, tuning.passes = word
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    while self._busy() and tuning.wanted:
                        await asyncio.sleep(LOOK_S)
            process.go()
