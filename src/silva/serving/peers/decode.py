"""A decode peer: reserves blocks, reads them from a prefill peer, and generates.

It has all experts of its model, or is one of the ranks that share them (silva.experts): then it votes
before each pass, and takes part in those that only others have tokens for.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from silva.control.handover import Reservation
from silva.control.request import Output, Request
from silva.errors import ServingError
from silva.experts.group import TooFewError
from silva.experts.meeting import Meeting
from silva.experts.ranked import RankedModel
from silva.experts.spread import load_ranked
from silva.models.language import LanguageModel
from silva.serving.engine.grammar import Matcher
from silva.serving.peers.computing import ComputingPeer, attempt_id
from silva.serving.peers.start import PeerStart
from silva.serving.spread import spread_of
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


class DecodePeer(ComputingPeer):
    """See the module."""

    role: ClassVar[Role] = "decode"

    def __init__(self, start: PeerStart) -> None:
        self.ranked: RankedModel | None = None
        super().__init__(start)
        self._arrivals: dict[str, _Arrival] = {}

    def load_model(self, folder: Path, dtype: torch.dtype) -> LanguageModel:
        """All of it, or with the experts of this rank alone, once all ranks are here."""
        config = self.start.config
        if config.experts.ranks == 1:
            return super().load_model(folder, dtype)
        self.ranked = load_ranked(
            folder,
            self.start.rank,
            spread_of(config),
            Meeting(self.start.folder, config.experts.ranks),
            dtype=dtype,
            news=lambda: self.ray.call(lambda: None),
            patience_s=config.experts.patience_s,
            limit_s=config.start_s,  # who takes longer to serve is ended anyway
        )
        return self.ranked

    def run(self) -> None:
        try:
            super().run()
        except ServingError as error:  # such as a rank that the others have taken for dead
            log.error("this process ends: %s", error)
            sys.exit(1)

    def close(self) -> None:
        if self.ranked is not None:
            self.ranked.group.close()
        super().close()

    def compute(self) -> bool:
        """A step, or this rank's part in what the other ranks compute.

        Raises ServingError once others have taken this rank for dead.
        """
        if self.ranked is None:
            return super().compute()
        group = self.ranked.group
        # While ranks are missing a step would fail, and its requests with it.
        computed = group.enough() and super().compute()
        group.exchange.check_out()
        self.counters["ranks"] = len(group.alive())
        if computed or group.sleep():
            return computed
        with suppress(TooFewError):
            group.take_part()
        return True

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
