"""Sending a schedule: at its times whatever the server does, or as many at a time as agreed.

An open loop never waits for an answer before it sends the next request, and a request's time counts
from the moment it was due. So a server that stalls is charged for every request that came meanwhile;
a generator that waits would have left them out ("coordinated omission", Gil Tene).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol

from silva.serving.bench.nouns import Outcome, Planned

Encode = Callable[[Planned], bytes]
Send = Callable[[bytes, Outcome], Awaitable[None]]
Record = Callable[[Outcome], None]


class Timer(Protocol):
    """Seconds since the start of a run."""

    def now_s(self) -> float: ...

    async def sleep_until(self, at_s: float) -> None: ...


class WallTimer:
    """Real time."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def now_s(self) -> float:
        return time.perf_counter() - self._started

    async def sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self.now_s()))


async def open_loop(
    requests: Iterable[Planned], encode: Encode, send: Send, record: Record, timer: Timer
) -> None:
    """Send every request at its time, and return when all are answered.

    When cancelled, what is under way is cancelled and recorded as unfinished.
    """
    async with asyncio.TaskGroup() as group:
        for planned in requests:
            body = encode(planned)  # before its time comes, so that this costs no delay
            await timer.sleep_until(planned.at_s)
            group.create_task(_one(body, Outcome(planned, planned.at_s), send, record))
            await asyncio.sleep(0)  # it starts now, not after the next body is made


async def closed_loop(
    requests: Iterable[Planned],
    encode: Encode,
    send: Send,
    record: Record,
    timer: Timer,
    *,
    concurrency: int,
    until_s: float,
) -> None:
    """Keep `concurrency` requests under way; none starts after `until_s`. Cancelled as `open_loop`.

    A request is due when one before it ends: a slow server is asked less.
    """
    shared = iter(requests)
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(_worker(shared, encode, send, record, timer, until_s))


async def _worker(
    requests: Iterator[Planned],
    encode: Encode,
    send: Send,
    record: Record,
    timer: Timer,
    until_s: float,
) -> None:
    while timer.now_s() < until_s and (planned := next(requests, None)) is not None:
        body = encode(planned)
        due_s = timer.now_s()  # encoding may have taken until after the end
        if due_s < until_s:
            await _one(body, Outcome(planned, due_s), send, record)


async def _one(body: bytes, outcome: Outcome, send: Send, record: Record) -> None:
    try:
        await send(body, outcome)
    finally:
        record(outcome)
