"""A computing peer's way to the cache peers: one thread that asks and offers, others that read.

    client.look(namespace, keys, then)            then(findings): what the cache has of these
    client.read(pieces, targets, then, findings)  then(right): whether each was read and verified
    client.offer(namespace, blocks, then)         then(): the cache has fetched these, or will not

`then` runs on the peer's own thread (`Ray.call`), which never waits for any of this. A cache peer
that does not answer in time counts as one that has nothing. Reads wait for the owner of the memory,
so each owner has at most one thread at a time: one that was stopped holds up only what it owns.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import zmq

from silva.control.ring import Ring
from silva.errors import ServingError
from silva.serving.peers.lanes import Lanes
from silva.serving.process_name import show_thread_as
from silva.serving.wire.messages import (
    Forget,
    Found,
    Kept,
    Lookup,
    Member,
    Message,
    Put,
    decode,
    encode,
)
from silva.serving.wire.star import Ray, set_limits
from silva.transfer import Exposed, Piece, Transfer

log = logging.getLogger("silva.cached")

THREAD = "transfer"
"""As what the system shows this thread and those that read."""
READERS = 8
"""They sleep unless there is something to read; an owner that was stopped keeps one of them."""
LOOKUP_S = 1.0
OFFER_S = 10.0
"""Answers that take longer are not waited for. An offer keeps its blocks pinned so long."""


@dataclass
class Findings:
    """What a lookup came to. The pieces stay as they are until `read` or `drop` gets this."""

    pieces: dict[bytes, Piece] = field(default_factory=dict)
    pinned: list[tuple[str, int]] = field(default_factory=list)
    """Cache peers that keep pieces for us, and the number of the lookup by which they know it."""


@dataclass
class _Question:
    """One lookup or offer, which may be with several cache peers at once."""

    due_s: float
    end: Callable[[], None]
    open: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    """Numbers that have not been answered, and the keys that each is about."""
    asked: dict[int, str] = field(default_factory=dict)
    """Whom each number was sent to."""
    findings: Findings = field(default_factory=Findings)


@dataclass(eq=False)
class _Reading:
    """One `read`, which may be of several owners at once."""

    right: list[bool]
    end: Callable[[list[bool]], None]
    findings: Findings | None
    open: int
    """Owners that it is still being read from."""


class CacheClient:
    """See the module. `memory` is what the peer exposes; block n begins at n * `block_bytes`."""

    def __init__(self, ray: Ray, transfer: Transfer, memory: Exposed, block_bytes: int) -> None:
        self._ray, self._transfer, self._memory = ray, transfer, memory
        self._block_bytes = block_bytes
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._readers = Lanes(READERS, THREAD)
        self.members: tuple[Member, ...] = ()
        # All that follows belongs to the client's thread.
        self._ring = Ring()
        self._addresses: dict[str, str] = {}
        self._sockets: dict[str, Any] = {}
        self._number = 0
        self._questions: dict[int, _Question] = {}
        self._readings: list[_Reading] = []
        self._settling: list[tuple[list[_Reading], threading.Event]] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="cached")
        self._thread.start()

    # From the peer's own thread ---------------------------------------------------------------

    def meet(self, members: Sequence[Member]) -> None:
        """The cache peers from now on."""
        self.members = tuple(members)
        self._do(lambda: self._meet(members))

    def look(
        self,
        namespace: str,
        keys: Sequence[bytes],
        then: Callable[[Findings], None],
        request: str = "",
    ) -> None:
        """What the cache has of `keys`; `request` is for its log."""
        self._do(lambda: self._look(namespace, keys, then, request))

    def read(
        self,
        pieces: Sequence[Piece],
        targets: Sequence[memoryview],
        then: Callable[[list[bool]], None],
        findings: Findings | None = None,
    ) -> None:
        """Read pieces of any peer into own blocks; this ends the lookup that found them."""
        self._do(lambda: self._read(pieces, targets, then, findings))

    def drop(self, findings: Findings) -> None:
        """Nothing of what a lookup found will be read."""
        self._do(lambda: self._forget(findings))

    def offer(self, namespace: str, blocks: Mapping[bytes, int], then: Callable[[], None]) -> None:
        """Let the cache fetch own blocks, by key. They must not change until `then`."""
        self._do(lambda: self._offer(namespace, blocks, then))

    def settle(self) -> None:
        """Wait until every read asked for so far is over."""
        over = threading.Event()
        self._do(lambda: self._settle(over))
        over.wait()

    def close(self) -> None:
        """Stop; what was asked is not answered any more."""
        self._readers.close()  # first: they tell this thread what they have read
        self._closing = True
        os.eventfd_write(self._event, 1)
        self._thread.join(timeout=5.0)

    def _do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        os.eventfd_write(self._event, 1)

    # On the client's thread -------------------------------------------------------------------

    def _run(self) -> None:
        show_thread_as(THREAD)
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._poller.register(self._event, zmq.POLLIN)
        while not self._closing:
            ready = dict(self._poller.poll(self._patience_ms()))
            if self._event in ready:
                os.eventfd_read(self._event)
            for name, socket in list(self._sockets.items()):
                if socket in ready:
                    self._listen(name, socket)
            self._work()
            self._give_up(time.monotonic())
        self._context.destroy(linger=0)
        os.close(self._event)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            try:
                job()
            except Exception:
                # The request computes what it does not get; without this thread nobody would.
                log.exception("the cache could not be asked")

    def _patience_ms(self) -> int | None:
        if not self._questions:
            return None
        due_s = min(question.due_s for question in self._questions.values())
        return max(1, int(1000 * (due_s - time.monotonic())))

    def _meet(self, members: Sequence[Member]) -> None:
        self._addresses = {member.name: member.address for member in members}
        self._ring = Ring(self._addresses)
        for name, socket in list(self._sockets.items()):
            if self._addresses.get(name) != socket.last_endpoint.decode().rstrip("\0"):
                self._poller.unregister(socket)
                socket.close()
                del self._sockets[name]
                self._answers_no_more(name)

    def _send(self, name: str, message: Message) -> None:
        if name not in self._addresses:
            return
        if name not in self._sockets:
            socket = self._context.socket(zmq.DEALER)
            set_limits(socket)
            socket.connect(self._addresses[name])
            self._poller.register(socket, zmq.POLLIN)
            self._sockets[name] = socket
        self._sockets[name].send(encode(message))

    def _ask(
        self,
        dealt: Mapping[str, tuple[bytes, ...]],
        part: Callable[[str, int], Message],
        within_s: float,
        end: Callable[[Findings], None],
    ) -> None:
        """Send each owner its part, numbered; `end` when all have answered or time is up."""
        question = _Question(time.monotonic() + within_s, lambda: end(question.findings))
        for name, keys in dealt.items():
            self._number += 1
            question.open[self._number] = keys
            question.asked[self._number] = name
            self._questions[self._number] = question
            self._send(name, part(name, self._number))
        if not question.open:
            question.end()

    def _look(
        self,
        namespace: str,
        keys: Sequence[bytes],
        then: Callable[[Findings], None],
        request: str,
    ) -> None:
        dealt = self._ring.by_owner(keys)
        self._ask(
            dealt,
            lambda name, number: Lookup(number, namespace, dealt[name], request),
            LOOKUP_S,
            lambda findings: self._ray.call(lambda: then(findings)),
        )

    def _offer(self, namespace: str, blocks: Mapping[bytes, int], then: Callable[[], None]) -> None:
        dealt, size = self._ring.by_owner(blocks), self._block_bytes

        def part(name: str, number: int) -> Message:
            pieces = (self._memory.piece(blocks[key] * size, size) for key in dealt[name])
            return Put(number, namespace, dealt[name], tuple(pieces))

        self._ask(dealt, part, OFFER_S, lambda _: self._ray.call(then))

    def _read(
        self,
        pieces: Sequence[Piece],
        targets: Sequence[memoryview],
        then: Callable[[list[bool]], None],
        findings: Findings | None,
    ) -> None:
        owners: dict[str, list[tuple[int, Piece, memoryview]]] = {}
        for index, (piece, target) in enumerate(zip(pieces, targets, strict=True)):
            owners.setdefault(piece.region.address, []).append((index, piece, target))
        reading = _Reading([False] * len(pieces), then, findings, len(owners))
        self._readings.append(reading)
        for owner, part in owners.items():
            self._readers.run(owner, partial(self._read_part, reading, part))
        if not owners:
            self._read_all(reading)

    def _read_part(self, reading: _Reading, part: Sequence[tuple[int, Piece, memoryview]]) -> None:
        """What one owner has of it; on a thread of the readers."""
        right: list[int] = []
        try:
            indices, pieces, targets = zip(*part, strict=True)
            errors = self._transfer.read_many(pieces, targets)
            right = [index for index, error in zip(indices, errors, strict=True) if error is None]
            for error in {str(error) for error in errors if error is not None}:
                log.warning("a block could not be read: %s", error)
        finally:
            self._do(lambda: self._read_from(reading, right))

    def _read_from(self, reading: _Reading, right: Sequence[int]) -> None:
        """One owner's part is over; these of the pieces are right."""
        for index in right:
            reading.right[index] = True
        reading.open -= 1
        if not reading.open:
            self._read_all(reading)

    def _read_all(self, reading: _Reading) -> None:
        self._readings.remove(reading)
        if reading.findings is not None:
            self._forget(reading.findings)
        self._ray.call(lambda: reading.end(reading.right))
        for readings, over in self._settling:
            if reading in readings:
                readings.remove(reading)
            if not readings:
                over.set()
        self._settling = [each for each in self._settling if each[0]]

    def _settle(self, over: threading.Event) -> None:
        if self._readings:
            self._settling.append((list(self._readings), over))
        else:
            over.set()

    def _forget(self, findings: Findings) -> None:
        for name, number in findings.pinned:
            self._send(name, Forget(number))

    def _listen(self, name: str, socket: Any) -> None:
        while True:
            try:
                message = decode(socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            except ServingError as error:
                log.error("%s: %s", name, error)
                continue
            if isinstance(message, (Found, Kept)):
                self._answered(name, message)

    def _answered(self, name: str, message: Found | Kept) -> None:
        question = self._questions.pop(message.number, None)
        if question is None:  # too late: it was given up
            if isinstance(message, Found):
                self._send(name, Forget(message.number))
            return
        keys = question.open.pop(message.number)
        if isinstance(message, Found):
            pairs = zip(keys, message.pieces, strict=False)
            found = {key: piece for key, piece in pairs if piece is not None}
            question.findings.pieces |= found
            if found:
                question.findings.pinned.append((name, message.number))
        if not question.open:
            question.end()

    def _answers_no_more(self, name: str) -> None:
        """What this peer was asked is over: with its socket its answers are gone."""
        for number, question in list(self._questions.items()):
            if question.asked[number] == name:
                del self._questions[number]
                del question.open[number]
                if not question.open:
                    question.end()

    def _give_up(self, now_s: float) -> None:
        late = {id(q): q for q in self._questions.values() if q.due_s <= now_s}
        for question in late.values():
            for number in question.open:
                del self._questions[number]
            question.end()
