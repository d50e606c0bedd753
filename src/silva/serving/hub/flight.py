"""One request on its way: where it is, what it has said, who waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Literal

from silva.control.request import FinishReason, Output, Phases, Request, TokenLogprob
from silva.serving.backend import End, UnavailableError
from silva.serving.hub.peer import Peer
from silva.serving.hub.settings import HubSettings

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
    stuck_ends: int = 0
    """Peers that were ended in a step that it was part of."""

    @property
    def left(self) -> int:
        """Tokens that may still be given out."""
        return self.request.sampling.max_tokens - len(self.request.emitted)

    def needs(self, peer: Peer) -> bool:
        """A prefill peer is needed until the blocks are read, a decode peer until the end."""
        if peer.role == "prefill":
            return self.prefill == peer.name and self.state in ("prefill", "handover")
        return self.decode == peer.name

    def computed_by(self, peer: Peer) -> bool:
        """Whether the peer's present step may be about it."""
        return self.needs(peer) and self.state == peer.role

    def given_up(self, settings: HubSettings) -> UnavailableError | None:
        """What its client is told instead of another attempt; None: it is tried again."""
        if self.stuck_ends >= settings.most_stuck_ends:
            return UnavailableError(
                f"request {self.request.id} was given up: the steps of {self.stuck_ends} peers, one "
                "after the other, did not end with it in them",
                remedy="ask for a shorter prompt or answer; the server's log says more",
            )
        if self.request.attempt + 1 >= settings.most_attempts:
            return UnavailableError(f"request {self.request.id} failed too often")
        return None

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
