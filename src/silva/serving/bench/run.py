"""A whole benchmark: ask what the server understands, warm it up, send the schedule, keep it all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from silva.errors import ServingError
from silva.serving.bench.body import Bodies
from silva.serving.bench.client import Client, open_client
from silva.serving.bench.config import CLOSED, BenchConfig, settled
from silva.serving.bench.load import WallTimer, closed_loop, open_loop
from silva.serving.bench.nouns import Dialect, Outcome
from silva.serving.bench.schedule import most_requests, schedule, warmup
from silva.serving.bench.trace import TraceRow, read_trace


@dataclass(frozen=True)
class Progress:
    """How far a run is: requests that ended, of how many (None: the clock ends it), and failures."""

    stage: str
    done: int
    total: int | None
    failed: int = 0
    elapsed_s: float = 0.0


@dataclass
class Measured:
    """All outcomes of a run, in the order in which they ended, and the circumstances.

    elapsed_s: from the start of the schedule to its last answer, or to the interruption.
    """

    config: BenchConfig
    keys: int
    model: str = ""
    dialect: Dialect = field(default_factory=Dialect)
    outcomes: list[Outcome] = field(default_factory=list)
    elapsed_s: float = 0.0
    interrupted: bool = False


Watcher = Callable[[Progress], None]


async def run(
    config: BenchConfig,
    keys: Sequence[str] = (),
    *,
    stop: asyncio.Event | None = None,
    on_progress: Watcher = lambda progress: None,
) -> Measured:
    """Measure a server. Setting `stop` ends the run; what was measured until then is returned.

    keys: API keys, dealt to the requests at random; none for a server without. Raises ConfigError
    and DataError for settings and traces that are wrong, and ServingError when the server does not
    answer or refuses everything. Errors of single requests are part of what is measured.
    """
    config = settled(config)
    trace = read_trace(config.work.trace) if config.work.trace else []
    keys = tuple(keys) or ("",)
    next(schedule(config, trace, len(keys)), None)  # lengths that cannot be read, before anything
    stop, found = stop or asyncio.Event(), Measured(config, len(keys))
    async with open_client(config, keys, WallTimer().now_s) as client:
        stages = (
            partial(_ask, client, found, on_progress),
            partial(_warm_up, client, found, on_progress),
            partial(_measure, client, found, trace, on_progress),
        )
        for stage in stages:
            if not await _until(stop, stage()):
                found.interrupted = True
                break
    return found


def run_until_interrupted(
    config: BenchConfig, keys: Sequence[str], on_progress: Watcher
) -> Measured:
    """`run` in the main thread; Ctrl-C ends it with what was measured, a second one at once."""

    async def main() -> Measured:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def interrupt() -> None:
            stop.set()
            loop.remove_signal_handler(signal.SIGINT)

        loop.add_signal_handler(signal.SIGINT, interrupt)
        return await run(config, keys, stop=stop, on_progress=on_progress)

    return asyncio.run(main())


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work` unless `stop` comes first, which cancels it; whether it was done."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        for each in (task, stopped):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await each


async def _ask(client: Client, found: Measured, on_progress: Watcher) -> None:
    """Which model, and what the server understands."""
    on_progress(Progress("asking the server", 0, None))
    found.model = found.config.model or await client.first_model()
    found.dialect = await client.learn_dialect(found.model)


async def _warm_up(client: Client, found: Measured, on_progress: Watcher) -> None:
    """One request after another, none of which counts. ServingError when all of them fail."""
    bodies = Bodies(found.config, found.model, found.dialect)
    planned = warmup(found.config, found.keys)
    failures: list[Outcome] = []
    for number, each in enumerate(planned):
        on_progress(Progress("warm-up", number, len(planned), len(failures)))
        outcome = Outcome(each, client.clock())
        await client.send(bodies.encode(each), outcome)
        if not outcome.good:
            failures.append(outcome)
    if planned and len(failures) == len(planned):
        last = failures[-1]
        raise ServingError(
            f"every warm-up request failed, the last with {last.error}: {last.message}",
            where=found.config.url,
            remedy="choose lengths that the model takes, or a longer --timeout",
        )


async def _measure(
    client: Client, found: Measured, trace: Sequence[TraceRow], on_progress: Watcher
) -> None:
    """The schedule itself; its outcomes go into `found` as they come."""
    config, load = found.config, found.config.load
    requests = schedule(config, trace, found.keys)
    total = None if load.duration_s else most_requests(config, trace)
    if load.arrival != CLOSED:
        planned = list(requests)
        requests, total = iter(planned), len(planned)
    bodies = Bodies(config, found.model, found.dialect)
    timer = WallTimer()
    client.clock = timer.now_s
    failed = 0

    def record(outcome: Outcome) -> None:
        nonlocal failed
        failed += not outcome.good
        found.outcomes.append(outcome)
        found.elapsed_s = max(found.elapsed_s, outcome.finished_s)
        on_progress(Progress("load", len(found.outcomes), total, failed, timer.now_s()))

    on_progress(Progress("load", 0, total))
    if load.arrival == CLOSED:
        await closed_loop(
            requests,
            bodies.encode,
            client.send,
            record,
            timer,
            concurrency=load.concurrency,
            until_s=load.duration_s or math.inf,
        )
    else:
        await open_loop(requests, bodies.encode, client.send, record, timer)
