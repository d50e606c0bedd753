"""One request on its way: where it is, what it has said, who waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Literal

from silva.control.request import FinishReason, Output, Phases, Request, TokenLogprob
from silva.serving.backend import End

FlightState = Literal["queued", "prefill", "handover", "decode", "done"]


@dataclass
class Flight:
    """The hub's record of a request. Whatever dies, prompt and emitted tokens are here."""

    request: Request
    state: FlightState = "queued"
    prefill: str = ""
    decode: str = ""
    phases: Phases = field(default_factory=Phases)
    cached_tokens: int = 0
    outputs: asyncio.Queue[Output | Exception] = field(default_factory=asyncio.Queue)
    ends: End = "cancelled"
    """As what it counts if it ends now."""

    @property
    def left(self) -> int:
        """Tokens that may still be given out."""
        return self.request.sampling.max_tokens - len(self.request.emitted)

    def note(self, **times: float) -> None:
        """Write down when something happened, if it did not happen before."""
        new = {k: v for k, v in times.items() if getattr(self.phases, k) is None}
        self.phases = replace(self.phases, **new)

    def say(
        self,
        tokens: tuple[int, ...],
        logprobs: tuple[TokenLogprob, ...],
        finish: FinishReason | None,
    ) -> None:
        """Give tokens out to whoever waits, and remember them for a take-over."""
        self.request = replace(self.request, emitted=self.request.emitted + tokens)
        if finish is not None:
            self.ends = "finished"
        self.outputs.put_nowait(
            Output(
                request=self.request.id,
                tokens=tokens,
                logprobs=logprobs,
                finish=finish,
                cached_tokens=self.cached_tokens,
                phases=self.phases,
            )
        )

    def again(self) -> None:
        """Back to the queue as the next attempt, with all that was said so far."""
        self.request = replace(self.request, attempt=self.request.attempt + 1)
        self.state, self.prefill, self.decode = "queued", "", ""
