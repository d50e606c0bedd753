"""A request as the engine follows it, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass

from silva.control.request import Output, Phases, Request, Sampled
from silva.control.scheduler import Ended


@dataclass(slots=True)
class Tracked:
    """What the engine remembers of a request beside scheduler and runner."""

    request: Request
    root: bytes
    hand_over: bool
    phases: Phases
    cached_tokens: int = 0
    said: bool = False
    """Whether any token of it was told."""


def output_of(tracked: Tracked, sampled: Sampled, over: Ended | None) -> Output:
    """What is told of tokens that a step gave to it; `over`: they were its last."""
    return Output(
        sampled.request,
        sampled.tokens,
        sampled.logprobs,
        None if over is None else over.reason,
        tracked.cached_tokens,
        tracked.phases,
    )
