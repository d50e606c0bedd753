"""The router: owns every request from arrival to its last token, and chooses who computes it.

A request goes to the least loaded prefill and decode peer, wherever its blocks may lie (section 3).
Decode reserves and prefill starts at once (section 4.6). When a peer is lost, or says that a
hand-over was spoilt, the request starts again elsewhere with the tokens it has given out; since the
draw for a position depends on seed and position alone, the client reads the same text.

The hub runs on one event loop and touches no socket: `send` carries its messages away, and
`receive`, `lost` and `tick` tell it what happened.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from silva.control.mapping import PeerLoad, choose_decode, choose_prefill
from silva.control.mapping import Role as MappedRole
from silva.control.request import Output, Request
from silva.serving.backend import BusyError, UnavailableError, UnservableError
from silva.serving.hub.flight import Flight
from silva.serving.hub.peer import TOTALS, Peer
from silva.serving.hub.settings import HubSettings
from silva.serving.hub.traffic import Traffic
from silva.serving.hub.watch import holds, silent
from silva.serving.wire.messages import (
    AnyMessage,
    Beat,
    Cancel,
    Failed,
    HandOver,
    Hello,
    Joined,
    Member,
    Members,
    Message,
    Prefill,
    Prefilled,
    Rejected,
    Reserve,
    Role,
    Status,
    Tokens,
)

log = logging.getLogger("silva.hub")

COUNTERS = ("requests", "finished", "cancelled", "failed", "retries", "refused_late", "tokens")
"""Requests that are over have finished, or their client left, or they were given up."""


class Hub:
    """See the module. `clock` gives seconds that all processes of the machine share."""

    def __init__(
        self,
        settings: HubSettings,
        send: Callable[[str, Message], None],
        clock: Callable[[], float],
    ) -> None:
        self.settings, self._send, self._clock = settings, send, clock
        self.peers: dict[str, Peer] = {}
        self.flights: dict[str, Flight] = {}
        self._queue: list[tuple[int, float, int, str]] = []
        self._number = 0
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.traffic = Traffic()
        self.totals = dict.fromkeys(TOTALS, 0)
        """What all peers have counted, those among them that are gone."""

    # Requests -------------------------------------------------------------------------------

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """The request's outputs as they come; leaving early cancels it and frees its blocks.

        Raises BusyError when too many wait, UnavailableError when it fails for good.
        """
        waiting = sum(f.state == "queued" for f in self.flights.values())
        if waiting >= self.settings.most_waiting:
            raise BusyError(f"{waiting} requests wait already")
        flight = Flight(replace(request, arrival_s=self._clock()))
        flight.phases = replace(flight.phases, arrival_s=flight.request.arrival_s)
        self.flights[request.id] = flight
        self.counters["requests"] += 1
        self.traffic.arrived(len(request.prompt))
        self._enqueue(flight)
        self.dispatch()
        try:
            while True:
                output = await flight.outputs.get()
                if isinstance(output, Exception):
                    flight.ends = "failed"
                    raise output
                yield output
                if output.finish is not None:
                    return
        finally:
            if flight.state != "done":
                self._leave(flight)
                self.dispatch()

    def complete(self, request: str) -> None:
        """See Backend."""
        if request in self.flights:
            self.flights[request].ends = "finished"

    def _enqueue(self, flight: Flight) -> None:
        self._number += 1
        request = flight.request
        heapq.heappush(self._queue, (request.priority, request.arrival_s, self._number, request.id))

    def dispatch(self) -> None:
        """Give waiting requests to peers, in order, as long as there is room for the first."""
        while self._queue:
            flight = self.flights.get(self._queue[0][-1])
            if flight is None or flight.state != "queued":
                heapq.heappop(self._queue)
                continue
            if not self._assign(flight):
                return
            heapq.heappop(self._queue)

    def _assign(self, flight: Flight) -> bool:
        blocks = self._blocks(flight)
        prefill = self._least_loaded("prefill", blocks)
        decode = self._least_loaded("decode", blocks)
        alone = flight.left <= 1
        if prefill is None or (decode is None and not alone):
            return False
        flight.state, flight.prefill = "prefill", prefill.name
        prefill.requests[flight.request.id] = blocks
        if decode is not None and not alone:
            flight.decode = decode.name
            decode.requests[flight.request.id] = blocks
            self._send(decode.name, Reserve(flight.request))
        self._send(prefill.name, Prefill(flight.request))
        return True

    def _blocks(self, flight: Flight) -> int:
        """Blocks of the prompt, of what was said, and of one step more."""
        tokens = len(flight.request.prompt) + len(flight.request.emitted) + 1
        return -(-tokens // self.settings.block_tokens)

    def _least_loaded(self, role: Role, blocks: int) -> Peer | None:
        able = [
            self.load_of(peer)
            for peer in self.peers.values()
            if peer.role == role
            and peer.has_room(blocks)
            and (role != "prefill" or len(peer.requests) < self.settings.most_prefills)
        ]
        name = choose_prefill(able) if role == "prefill" else choose_decode(able)
        return None if name is None else self.peers[name]

    def load_of(self, peer: Peer) -> PeerLoad:
        """What it was given, in whole blocks; a prefill peer is done with blocks to be read."""
        counted = (
            blocks
            for request, blocks in peer.requests.items()
            if peer.role != "prefill" or self.flights[request].state == "prefill"
        )
        size = self.settings.block_tokens
        return PeerLoad(
            peer.name,
            MappedRole(peer.role),
            requests=len(peer.requests),
            tokens=size * sum(counted),
            capacity_tokens=size * peer.load.blocks_total,
        )

    # What peers say -------------------------------------------------------------------------

    def receive(self, name: str, message: AnyMessage) -> None:
        """Act on a message of peer `name`."""
        peer = self.peers.get(name)
        if peer is None:
            return
        peer.heard_s = self._clock()
        if peer.silent:
            log.info("%s speaks again", name)
            peer.silent = False
            self._membership(peer)
        match message:
            case Hello():
                self._welcome(peer, message)
            case Status():
                self._count(peer, message.counters)
                peer.load, peer.counters = message.load, message.counters
                peer.admission = message.admission
                peer.reported_s, peer.busy_s = peer.heard_s, 0.0  # it speaks between steps
            case Beat():
                peer.busy_s = message.busy_s
            case Tokens():
                for attempt, output in zip(message.attempts, message.outputs, strict=True):
                    self._tokens(name, attempt, output)
            case Prefilled():
                self._prefilled(name, message)
            case Joined():
                self._joined(message)
            case Rejected():
                flight = self._flight(message.request, message.attempt)
                if flight is not None:
                    log.warning("%s on %s: %s", message.request, name, message.why)
                    self._retry(flight)
            case Failed():
                flight = self._flight(message.request, message.attempt)
                if flight is not None:
                    flight.outputs.put_nowait(UnservableError(message.why))
            case _:
                log.error("%s sent a message that is not for the front", name)
        self.dispatch()

    def _count(self, peer: Peer, counters: dict[str, float]) -> None:
        """Add what is new. A process that takes another's place is another Peer: it counts anew."""
        for name in TOTALS:
            self.totals[name] += max(0, int(counters.get(name, 0) - peer.counters.get(name, 0)))

    def _welcome(self, peer: Peer, hello: Hello) -> None:
        peer.pid, peer.address, peer.load = hello.pid, hello.address, hello.load
        peer.reported_s = peer.heard_s  # that it has not computed anything
        if peer.state == "starting":
            peer.state = "ready"
        if peer.role == "cache":
            self._membership(peer)
        else:
            self._send(peer.name, self._members())

    def _members(self) -> Members:
        usable = (p for p in self.peers.values() if p.role == "cache" and p.usable)
        return Members(tuple(Member(p.name, p.address) for p in usable))

    def _membership(self, changed: Peer) -> None:
        """Tell everybody who shares the keys, if a cache peer came or went."""
        if changed.role != "cache":
            return
        members = self._members()
        for peer in self.peers.values():
            if peer.state != "starting":
                self._send(peer.name, members)

    def _flight(self, request: str, attempt: int) -> Flight | None:
        """The flight that a message is about, or None when it comes too late."""
        flight = self.flights.get(request)
        if flight is None or flight.request.attempt != attempt:
            self.counters["refused_late"] += 1
            return None
        return flight

    def _prefilled(self, name: str, message: Prefilled) -> None:
        flight = self._flight(message.request, message.attempt)
        if flight is None or flight.state != "prefill":
            self._send(name, Cancel(message.request, message.attempt))
            return
        flight.cached_tokens = max(flight.cached_tokens, message.cached_tokens)
        known = len(flight.request.prompt) + len(flight.request.emitted)
        self.traffic.prefilled(known - message.cached_tokens)
        flight.note(prefill_start_s=message.started_s, prefill_done_s=message.done_s)
        finish = message.finish or ("length" if flight.left <= 1 else None)
        if finish is None:
            flight.state = "handover"
            self._send(
                flight.decode,
                HandOver(
                    message.request,
                    message.attempt,
                    token=message.token,
                    pieces=message.pieces,
                    draft=message.draft,
                ),
            )
        else:
            flight.note(finished_s=self._clock())
        self.counters["tokens"] += 1
        flight.say((message.token,), (message.logprob,) if message.logprob else (), finish)
        if finish is not None:
            self._leave(flight)

    def _joined(self, message: Joined) -> None:
        flight = self._flight(message.request, message.attempt)
        if flight is None or flight.state != "handover":
            return
        flight.state = "decode"
        flight.note(joined_s=self._clock())
        self._release(flight, flight.prefill)
        flight.prefill = ""

    def _tokens(self, name: str, attempt: int, output: Output) -> None:
        flight = self._flight(output.request, attempt)
        if flight is None or flight.decode != name:
            return
        now = self._clock()
        flight.note(first_decode_s=now)
        if output.finish is not None:
            flight.note(finished_s=now)
        self.counters["tokens"] += len(output.tokens)
        flight.say(output.tokens, output.logprobs, output.finish)
        peer = self.peers.get(name)
        if peer is not None and output.request in peer.requests:
            peer.requests[output.request] = self._blocks(flight)
        if output.finish is not None:
            self._leave(flight, computing=False)

    # Ends and losses ------------------------------------------------------------------------

    def _leave(self, flight: Flight, computing: bool = True) -> None:
        """Forget a request; peers that still hold something of it give it back."""
        self.counters[flight.ends] += 1
        self.traffic.ended(len(flight.request.emitted))
        self._release(flight, flight.prefill)
        self._release(flight, flight.decode, tell=computing)
        flight.state = "done"
        del self.flights[flight.request.id]

    def _release(self, flight: Flight, name: str, tell: bool = True) -> None:
        peer = self.peers.get(name)
        if peer is None or peer.requests.pop(flight.request.id, None) is None:
            return
        if tell:
            self._send(name, Cancel(flight.request.id, flight.request.attempt))

    def _retry(self, flight: Flight) -> None:
        self.counters["retries"] += 1
        self._release(flight, flight.prefill)
        self._release(flight, flight.decode)
        if (error := flight.given_up(self.settings)) is not None:
            flight.outputs.put_nowait(error)
            return
        flight.again()
        self._enqueue(flight)

    def expect(self, name: str, role: Role, follows: bool = False) -> None:
        """A process of this name was started; it counts once it has said Hello."""
        self.peers[name] = Peer(name, role, follows=follows, heard_s=self._clock())

    def lost(self, name: str) -> None:
        """The process has ended: what it had goes elsewhere."""
        peer = self.peers.pop(name, None)
        if peer is None:
            return
        self._abandon(peer)
        self._membership(peer)
        self.dispatch()

    def _abandon(self, peer: Peer) -> None:
        """Take every request away from a peer that may not answer any more."""
        flights = [self.flights[r] for r in peer.requests if r in self.flights]
        for flight in flights:
            if flight.needs(peer):
                self._retry(flight)
            else:
                self._release(flight, peer.name)
        peer.requests.clear()

    def tick(self) -> None:
        """Call twice a second: peers that have fallen silent are no longer counted on, and prefill
        peers are told whose blocks they have to hold.
        """
        now = self._clock()
        for peer in silent(self.peers.values(), now, self.settings.suspect_after_s):
            log.warning("%s has been silent for %.1f s", peer.name, now - peer.heard_s)
            peer.silent = True
            self._abandon(peer)
            self._membership(peer)
        for name, hold in holds(self.flights.values()).items():
            self._send(name, hold)
        self.dispatch()

    def end(self, why: str) -> None:
        """Tell every client that is still waiting that nothing more comes."""
        for flight in self.flights.values():
            flight.outputs.put_nowait(UnavailableError(why))

    def drain(self, name: str) -> None:
        """Give the peer nothing new."""
        peer = self.peers[name]
        peer.state = "draining"
        self._membership(peer)

    def stuck(self, name: str) -> None:
        """Its step does not end: the process is being ended, and its requests go elsewhere."""
        self.drain(name)
        peer = self.peers[name]
        for flight in self.flights.values():
            flight.stuck_ends += flight.computed_by(peer)
        self._abandon(peer)
        self.dispatch()

    async def drained(self, name: str, within_s: float) -> None:
        """Wait until the peer has no requests; after `within_s` those left go elsewhere."""
        end = self._clock() + within_s
        while (peer := self.peers.get(name)) is not None and peer.requests:
            if self._clock() > end:
                self._abandon(peer)
                self.dispatch()
                return
            await asyncio.sleep(0.05)
