"""How much is let in at once: answers, those that wait for a first token, and bytes of bodies.

What does not fit is refused before its body is read, so that memory stays flat however many ask.
What would not fit into an empty gate is the client's mistake: it must not be told to come again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from silva.serving.api.errors import bad_request
from silva.serving.api.settings import ApiSettings
from silva.serving.backend import BusyError, UnavailableError

_MOST_RETRY_S = 60.0
_RECENT = 0.1
"""Weight of the latest interval in the running mean of intervals between answers that end."""


class Gate:
    """Counts what is inside. Used on one event loop only."""

    def __init__(self, settings: ApiSettings, clock: Callable[[], float]) -> None:
        self._settings, self._clock = settings, clock
        self.answers = 0
        self.waiting = 0
        self.held_bytes = 0
        self.refused = 0
        self._of_key: Counter[str] = Counter()
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._left_s: float | None = None
        self._interval_s = 0.0

    @property
    def most_of_one(self) -> int:
        """Answers that one request can ever have under way."""
        limits = self._settings
        most = min(limits.max_answers, limits.max_waiting)
        return min(most, limits.max_answers_per_key or most)

    def enter(self, key: str) -> Ticket:
        """Room for one answer of this key. Raises BusyError, and UnavailableError when closed."""
        if self._closed:
            raise UnavailableError("the server is stopping")
        ticket = Ticket(self, key)
        self.take(key, 1)
        ticket.answers = ticket.waiting = 1
        return ticket

    def take(self, key: str, answers: int) -> None:
        """Count `answers` more, all of them waiting. Raises BusyError."""
        limits = self._settings
        of_key = limits.max_answers_per_key
        if self.answers + answers > limits.max_answers:
            raise self._busy(f"{self.answers} answers are under way, the limit")
        if self.waiting + answers > limits.max_waiting:
            raise self._busy(f"{self.waiting} answers wait, the limit")
        if of_key and self._of_key[key] + answers > of_key:
            raise self._busy(
                f"{self._of_key[key]} answers of this API key are under way, its limit"
            )
        self.answers += answers
        self.waiting += answers
        self._of_key[key] += answers
        self._empty.clear()

    def hold(self, count: int) -> None:
        """Count `count` more bytes of bodies. Raises BusyError."""
        if self.held_bytes + count > self._settings.max_held_bytes:
            raise self._busy("too many large requests at once")
        self.held_bytes += count

    def leave(self, key: str, answers: int) -> None:
        """These answers are finished, one way or another."""
        self.answers -= answers
        self._of_key[key] -= answers
        if not self._of_key[key]:
            del self._of_key[key]
        now = self._clock()
        if self._left_s is not None:
            latest = (now - self._left_s) / answers
            self._interval_s += _RECENT * (latest - self._interval_s)
        self._left_s = now
        if not self.answers:
            self._empty.set()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed

    async def empty(self) -> None:
        """Returns once nothing is inside."""
        await self._empty.wait()

    def _busy(self, what: str) -> BusyError:
        """Come back when, at the present pace, those who wait will have left."""
        self.refused += 1
        wait_s = self._interval_s * max(1, self.waiting)
        return BusyError(what, retry_after_s=min(max(wait_s, 1.0), _MOST_RETRY_S))


class Ticket:
    """The place of one request in the gate; leaving the `with` block gives it back."""

    def __init__(self, gate: Gate, key: str) -> None:
        self._gate, self._key = gate, key
        self.answers = self.waiting = self._held = 0

    def widen(self, answers: int) -> None:
        """Room for so many answers instead of one. Raises BusyError, and ApiError 400 for more
        than ever fit.
        """
        most = self._gate.most_of_one
        if answers > most:
            message = f"{answers} answers are asked for, this server takes {most} in one request"
            raise bad_request(message, param="n", code="too_many_answers")
        self._gate.take(self._key, answers - self.answers)
        self.waiting += answers - self.answers
        self.answers = answers

    def hold(self, count: int) -> None:
        """Count bytes of the body. Raises BusyError."""
        self._gate.hold(count)
        self._held += count

    def started(self) -> None:
        """One of the answers has its first token."""
        if self.waiting:
            self.waiting -= 1
            self._gate.waiting -= 1

    def close(self) -> None:
        """Give everything back; once is enough, more does no harm."""
        self._gate.held_bytes -= self._held
        self._gate.waiting -= self.waiting
        self._held = self.waiting = 0
        if self.answers:
            self._gate.leave(self._key, self.answers)
            self.answers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
