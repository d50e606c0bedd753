from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from itertools import count

import pytest

from silva.serving.bench.load import WallTimer, closed_loop, open_loop
from silva.serving.bench.nouns import UNFINISHED, Outcome, Planned


class FakeTimer:
    """A clock that moves when somebody sleeps, or when a test moves it."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    async def sleep_until(self, at_s: float) -> None:
        self.at_s = max(self.at_s, at_s)
        await asyncio.sleep(0)


def plan(times: list[float]) -> list[Planned]:
    return [Planned(n, at_s, 1, 1) for n, at_s in enumerate(times)]


def encode(planned: Planned) -> bytes:
    return str(planned.index).encode()


class Server:
    """Answers in no time; `before` runs inside of every request."""

    def __init__(self, timer: FakeTimer, before: Callable[[Outcome], Awaitable[None]]) -> None:
        self.timer, self.before = timer, before
        self.sent: list[tuple[bytes, float]] = []
        self.ended: list[Outcome] = []
        self.running = self.most = 0

    async def send(self, body: bytes, outcome: Outcome) -> None:
        outcome.started_s = self.timer.at_s
        self.sent.append((body, self.timer.at_s))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.before(outcome)
            outcome.error = ""
        finally:
            self.running -= 1
            outcome.finished_s = self.timer.at_s


async def nothing(outcome: Outcome) -> None:
    await asyncio.sleep(0)


def test_an_open_loop_sends_at_its_times() -> None:
    timer = FakeTimer()
    server = Server(timer, nothing)
    times = [0.5, 0.5, 2.0, 7.25]
    asyncio.run(open_loop(plan(times), encode, server.send, server.ended.append, timer))
    assert server.sent == [(str(n).encode(), at_s) for n, at_s in enumerate(times)]
    assert [o.scheduled_s for o in server.ended] == times and all(o.good for o in server.ended)


def test_an_open_loop_waits_for_no_answer() -> None:
    """No request is answered before all have been sent: a loop that waits would never end."""
    timer, everybody = FakeTimer(), 20

    async def whole() -> Server:
        all_sent = asyncio.Event()

        async def hold(outcome: Outcome) -> None:
            if outcome.planned.index == everybody - 1:
                all_sent.set()
            await all_sent.wait()

        server = Server(timer, hold)
        times = [float(n) for n in range(everybody)]
        await open_loop(plan(times), encode, server.send, server.ended.append, timer)
        return server

    server = asyncio.run(whole())
    assert server.most == everybody == len(server.ended)
    # The stall is charged to everybody who came meanwhile, from the moment each was due.
    waited = sorted(o.end_to_end_s for o in server.ended)
    assert waited == [float(n) for n in range(everybody)]


def test_a_late_generator_counts_from_the_time_that_was_due() -> None:
    timer = FakeTimer()

    async def at_once(outcome: Outcome) -> None:
        pass

    server = Server(timer, at_once)

    def slow(planned: Planned) -> bytes:
        timer.at_s += 10.0 * (planned.index == 1)  # the machine of the generator is busy
        return encode(planned)

    asyncio.run(open_loop(plan([1.0, 2.0, 3.0]), slow, server.send, server.ended.append, timer))
    assert [o.scheduled_s for o in server.ended] == [1.0, 2.0, 3.0]
    assert [o.lag_s for o in server.ended] == [0.0, 9.0, 8.0]
    assert [o.end_to_end_s for o in server.ended] == [0.0, 9.0, 8.0]


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_a_closed_loop_keeps_so_many_under_way(concurrency: int) -> None:
    timer = FakeTimer()

    async def some_time(outcome: Outcome) -> None:
        for _ in range(1 + outcome.planned.index % 3):
            await asyncio.sleep(0)

    server = Server(timer, some_time)
    requests = plan([0.0] * 20)
    run = closed_loop(
        requests,
        encode,
        server.send,
        server.ended.append,
        timer,
        concurrency=concurrency,
        until_s=math.inf,
    )
    asyncio.run(run)
    assert server.most == min(concurrency, 20)
    assert sorted(o.planned.index for o in server.ended) == list(range(20))
    assert [body for body, _ in server.sent] == [str(n).encode() for n in range(20)]


def test_a_closed_loop_starts_nothing_after_its_time() -> None:
    timer = FakeTimer()

    async def a_second(outcome: Outcome) -> None:
        timer.at_s += 1.0
        await asyncio.sleep(0)

    server = Server(timer, a_second)
    endless = (Planned(n, 0.0, 1, 1) for n in count())
    run = closed_loop(
        endless, encode, server.send, server.ended.append, timer, concurrency=1, until_s=4.5
    )
    asyncio.run(run)
    assert [o.scheduled_s for o in server.ended] == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("kind", ["open", "closed"])
def test_cancelled_requests_are_recorded_as_unfinished(kind: str) -> None:
    timer = FakeTimer()

    async def whole() -> Server:
        three = asyncio.Event()

        async def half_answer(outcome: Outcome) -> None:
            if outcome.planned.index == 3:
                three.set()
            if outcome.planned.index:
                await asyncio.Event().wait()

        server = Server(timer, half_answer)
        given = (plan([0.0] * 4), encode, server.send, server.ended.append, timer)
        run = (
            open_loop(*given)
            if kind == "open"
            else closed_loop(*given, concurrency=4, until_s=math.inf)
        )
        task = asyncio.create_task(run)
        await three.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return server

    server = asyncio.run(whole())
    errors = {o.planned.index: o.error for o in server.ended}
    assert errors == {0: "", 1: UNFINISHED, 2: UNFINISHED, 3: UNFINISHED}
    assert server.running == 0


def test_a_defect_in_sending_is_not_swallowed() -> None:
    timer = FakeTimer()

    async def broken(outcome: Outcome) -> None:
        raise ZeroDivisionError

    server = Server(timer, broken)
    with pytest.raises(ExceptionGroup, match="unhandled"):
        asyncio.run(open_loop(plan([0.0]), encode, server.send, server.ended.append, timer))


def test_the_wall_timer_does_not_sleep_for_what_is_past() -> None:
    async def whole() -> None:
        timer = WallTimer()
        before_s = timer.now_s()
        await timer.sleep_until(before_s - 100)
        await timer.sleep_until(before_s + 0.001)
        assert timer.now_s() >= before_s + 0.001

    asyncio.run(whole())
