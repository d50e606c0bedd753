"""A decode peer: reserves blocks, reads them from a prefill peer, and generates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from silva.control.handover import Reservation
from silva.control.request import Output, Request
from silva.errors import ServingError
from silva.serving.engine.grammar import Matcher
from silva.serving.peers.computing import attempt_id
from silva.serving.peers.ranked import RankedPeer
from silva.serving.peers.start import PeerStart
from silva.serving.wire.messages import AnyMessage, HandOver, Joined, Reserve, Role, Tokens

log = logging.getLogger("silva.peer")


@dataclass
class _Arrival:
    """A request that is on its way here. It needs blocks, then what lies in them."""

    request: Request
    """As the engine knows it."""
    reservation: Reservation | None = None
    hand_over: HandOver | None = None
    compiled: bool = False
    """Whether its grammar, if it has one, is ready."""
    matcher: Matcher | None = None
    reading: bool = False

    def compile(self, matcher: Matcher | None) -> None:
        self.compiled, self.matcher = True, matcher


class DecodePeer(RankedPeer):
    """See the module."""

    role: ClassVar[Role] = "decode"

    def __init__(self, start: PeerStart) -> None:
        super().__init__(start)
        self._arrivals: dict[str, _Arrival] = {}

    def take(self, message: AnyMessage) -> None:
        match message:
            case Reserve():
                request = self.known(message.request)
                arrival = self._arrivals[request.id] = _Arrival(request)
                self.compile(request, arrival.compile)
            case HandOver():
                inside = attempt_id(message.request, message.attempt)
                if inside in self._arrivals:
                    self._arrivals[inside].hand_over = message
            case _:
                raise TypeError(f"a decode peer was sent {type(message).__name__}")

    def forget(self, inside: str) -> None:
        arrival = self._arrivals.pop(inside, None)
        if arrival is not None and arrival.reservation and not arrival.reading:
            self.engine.abandon(inside)
        # Blocks that are being read into go when that is over: `cancel` only marks them.
        super().forget(inside)

    def proceed(self, now_s: float) -> None:
        for arrival in list(self._arrivals.values()):
            if arrival.reservation is None and not self._reserve(arrival):
                return  # in order: a smaller one behind must not keep it out
            ready = arrival.compiled and not arrival.reading
            if arrival.hand_over is not None and arrival.reservation is not None and ready:
                self._fetch(arrival, arrival.reservation, arrival.hand_over)

    def _reserve(self, arrival: _Arrival) -> bool:
        """Whether those behind may go on: it has its blocks, or was refused."""
        try:
            arrival.reservation = self.engine.reserve(arrival.request)
        except (ServingError, ValueError) as error:
            self.give_back(arrival.request.id, error)
            return True
        return arrival.reservation is not None

    def _fetch(self, arrival: _Arrival, given: Reservation, hand_over: HandOver) -> None:
        """Read what the reservation lacks, beside the batch that goes on decoding."""
        arrival.reading = True
        pieces = hand_over.pieces[given.ready : len(given.blocks)]
        targets = [self.memory.block(block) for block in given.blocks[given.ready :]]
        then = partial(self._fetched, arrival, hand_over)
        if len(pieces) == len(targets):
            self.cache.read(pieces, targets, then)
        else:
            then([False])

    def _fetched(self, arrival: _Arrival, given: HandOver, right: Sequence[bool]) -> None:
        inside = arrival.request.id
        self._arrivals.pop(inside, None)
        if not all(right):
            self.engine.abandon(inside)
            self.counters["spoilt_transfers"] += right.count(False)
            self.give_back(inside, OSError("the blocks are not those that were handed over"))
            return
        try:
            joined = self.engine.commit(arrival.request, given.token, given.draft, arrival.matcher)
        except ServingError as error:
            self.engine.abandon(inside)
            self.give_back(inside, error)
            return
        if joined:
            request = self.requests[inside]
            self.tell(Joined(request.id, request.attempt))

    def outputs(self, outputs: Sequence[Output]) -> None:
        attempts, told = [], []
        for output in outputs:
            request = self.requests.get(output.request)
            if request is None:  # cancelled in mid-step
                continue
            if output.finish is not None:
                log.info("%s: ended, %s", request.id, output.finish)
                del self.requests[output.request]
            attempts.append(request.attempt)
            told.append(replace(output, request=request.id))
        if told:
            self.ray.send(Tokens(tuple(attempts), tuple(told)))
