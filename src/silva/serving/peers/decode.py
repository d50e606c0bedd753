"""A decode peer: reserves blocks, reads them from a prefill peer, and generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from silva.control.handover import Reservation, abandon, commit, reserve
from silva.control.request import Output, Plan, Request, Sampled
from silva.control.scheduler import Update
from silva.control.state import State
from silva.serving.engine.grammar import Matcher
from silva.serving.peers.computing import ComputingPeer, attempt_id
from silva.serving.wire.messages import AnyMessage, HandOver, Joined, Reserve, Role, Tokens


@dataclass
class _Arrival:
    """A request that is on its way here. It needs blocks, then what lies in them."""

    request: Request
    """As the scheduler knows it."""
    reservation: Reservation | None = None
    hand_over: HandOver | None = None
    reading: bool = False
    compiled: bool = False
    """Whether its grammar, if it has one, is ready."""
    matcher: Matcher | None = None


class DecodePeer(ComputingPeer):
    """See the module."""

    role: ClassVar[Role] = "decode"

    def reset(self) -> None:
        self._arrivals: dict[str, _Arrival] = {}

    def take(self, message: AnyMessage) -> None:
        match message:
            case Reserve():
                request = self.known(message.request)
                arrival = self._arrivals[request.id] = _Arrival(request)
                self.compile(request, partial(self._compiled, arrival))
            case HandOver():
                inside = attempt_id(message.request, message.attempt)
                if inside in self._arrivals:
                    self._arrivals[inside].hand_over = message
            case _:
                raise TypeError(f"a decode peer was sent {type(message).__name__}")

    @staticmethod
    def _compiled(arrival: _Arrival, matcher: Matcher | None) -> None:
        arrival.compiled, arrival.matcher = True, matcher

    def forget(self, inside: str) -> None:
        arrival = self._arrivals.pop(inside, None)
        if arrival is not None and arrival.reservation and not arrival.reading:
            abandon(self.state, inside)
        # Blocks that are being read into go when that is over: `cancel` only marks them.
        super().forget(inside)

    def proceed(self, now_s: float) -> None:
        for inside, arrival in list(self._arrivals.items()):
            if arrival.reservation is None and not self._reserve(inside, arrival):
                return  # in order: a smaller one behind must not keep it out
            ready = arrival.compiled and not arrival.reading
            if arrival.hand_over is not None and ready:
                self._fetch(arrival, arrival.hand_over)

    def _reserve(self, inside: str, arrival: _Arrival) -> bool:
        keys = self.identity.keys(arrival.request)
        try:
            arrival.reservation = reserve(self.state, arrival.request, keys, self.step_time)
        except ValueError as error:
            self.reject(inside, str(error))
            return True
        return arrival.reservation is not None

    def _fetch(self, arrival: _Arrival, hand_over: HandOver) -> None:
        """Read what the reservation lacks, beside the batch that goes on decoding."""
        given, state = arrival.reservation, self.state
        if given is None:  # refused a moment ago
            return
        arrival.reading = True
        pieces = hand_over.pieces[given.ready : len(given.blocks)]
        targets = [self.memory.block(block) for block in given.blocks[given.ready :]]
        if len(pieces) < len(targets):
            self._fetched(state, arrival, hand_over.token, [False])
            return
        self.cache.read(
            pieces, targets, lambda right: self._fetched(state, arrival, hand_over.token, right)
        )

    def _fetched(self, state: State, arrival: _Arrival, token: int, right: Sequence[bool]) -> None:
        request = arrival.request
        here = self._arrivals.pop(request.id, None) is arrival
        if not all(right):
            abandon(state, request.id)
            self.counters["spoilt_transfers"] = self.counters.get("spoilt_transfers", 0) + 1
            self.reject(request.id, "the blocks that were handed over are not those promised")
            return
        if not commit(state, request.id) or not here:
            return  # cancelled meanwhile, or from before a step that failed
        if arrival.matcher is not None:
            arrival.matcher.take((token,))
        self.runner.add(replace(request, emitted=(*request.emitted, token)), arrival.matcher)
        attempt = self.requests[request.id]
        self.ray.send(Joined(attempt.id, attempt.attempt))

    def tell(self, plan: Plan, sampled: Sequence[Sampled], done: Update) -> None:
        reasons = {end.request: end.reason for end in done.ended}
        attempts, outputs = [], []
        for each in sampled:
            request = self.requests.get(each.request)
            if request is None:  # cancelled in mid-step
                continue
            attempts.append(request.attempt)
            outputs.append(
                Output(
                    request.id,
                    (each.token,),
                    (each.logprob,) if each.logprob else (),
                    reasons.get(each.request),
                )
            )
        for inside in reasons:
            self.over(inside)
        if outputs:
            self.ray.send(Tokens(tuple(attempts), tuple(outputs)))
