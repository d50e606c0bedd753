"""The star of control messages: the front in the middle, a peer at the end of every ray.

ZeroMQ over Unix sockets in a folder that only this user can enter. A peer is known by an identity
that its process was started with, so that nothing said by an older process of the same name is
taken for the new one's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from silva.errors import ServingError
from silva.serving.wire.messages import (
    LARGEST_MESSAGE_BYTES,
    AnyMessage,
    Message,
    decode,
    encode,
)

log = logging.getLogger("silva.wire")


def address(folder: Path, name: str) -> str:
    """The ZeroMQ address of socket `name` in the run's folder."""
    return f"ipc://{folder / name}"


HEART = "/heart"


def heart_of(identity: str) -> str:
    """The identity by which the heart of a peer's process speaks."""
    return identity + HEART


def peer_of(identity: str) -> str:
    """The identity of the peer's process that speaks, itself or by its heart."""
    return identity.removesuffix(HEART)


def set_limits(socket: Any) -> None:
    """What every socket of a run has set."""
    socket.setsockopt(zmq.LINGER, 0)
    # Nothing is dropped when a reader is slow: admission bounds what can be under way.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE_BYTES)


class Centre:
    """The front's end, on an event loop: sends by identity, hands what comes to `receive`."""

    def __init__(self, where: str, receive: Callable[[str, AnyMessage], None]) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        set_limits(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 0)
        self._socket.bind(where)
        self._receive = receive
        self._task = asyncio.get_running_loop().create_task(self._listen())

    def send(self, identity: str, message: Message) -> None:
        """Send without waiting; a peer that is not there is told nothing."""
        # An asyncio socket keeps the order of its sends, and the future needs no waiting for.
        self._socket.send_multipart([identity.encode(), encode(message)])

    async def _listen(self) -> None:
        while True:
            identity, data = await self._socket.recv_multipart()
            try:
                message = decode(data)
            except ServingError as error:
                log.error("%s: %s", identity.decode(errors="replace"), error)
                continue
            try:
                self._receive(identity.decode(errors="replace"), message)
            except Exception:
                # One message that the front cannot digest must not deafen it to all others.
                log.exception("while reading a message of %s", identity.decode(errors="replace"))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()
        self._context.destroy(linger=0)


class Outbox:
    """Messages to the own addresses of other peers, which do not answer; for one thread."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._sockets: dict[str, Any] = {}

    def send(self, where: str, message: Message) -> None:
        """Without waiting; what is sent to one that has gone is lost."""
        if where not in self._sockets:
            socket = self._sockets[where] = self._context.socket(zmq.DEALER)
            set_limits(socket)
            socket.connect(where)
        self._sockets[where].send(encode(message))

    def forget(self, where: str) -> None:
        """Nothing more is sent there."""
        if where in self._sockets:
            self._sockets.pop(where).close()

    def close(self) -> None:
        """What has not left yet is dropped."""
        self._context.destroy(linger=0)


class Ray:
    """A peer's end, for one thread; other threads leave work for it with `call`."""

    def __init__(self, where: str, identity: str, serves: str | None = None) -> None:
        """`serves`: the address at which this peer also answers others (a cache peer does)."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        set_limits(self._socket)
        self._socket.setsockopt(zmq.IDENTITY, identity.encode())
        self._socket.connect(where)
        self._own = None
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        if serves is not None:
            self._own = self._context.socket(zmq.ROUTER)
            set_limits(self._own)
            self._own.bind(serves)
            self._poller.register(self._own, zmq.POLLIN)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._event, zmq.POLLIN)

    def send(self, message: Message) -> None:
        """To the front."""
        self._socket.send(encode(message))

    def answer(self, asker: bytes, message: Message) -> None:
        """To one who asked at the own address."""
        assert self._own is not None
        self._own.send_multipart([asker, encode(message)])

    def call(self, work: Callable[[], None]) -> None:
        """Let the peer's own thread run `work` soon; for other threads."""
        self._calls.put(work)
        os.eventfd_write(self._event, 1)

    def receive(self, timeout_s: float) -> Iterator[tuple[bytes | None, AnyMessage]]:
        """What has come, waiting up to `timeout_s` for the first; the asker, or None: the front.

        Runs what `call` left before it yields.
        """
        ready = dict(self._poller.poll(int(timeout_s * 1000)))
        if self._event in ready:
            os.eventfd_read(self._event)
        while True:
            try:
                work = self._calls.get_nowait()
            except queue.Empty:
                break
            work()
        if self._socket in ready:
            yield from ((None, decode(data)) for data in self._drain(self._socket))
        if self._own is not None and self._own in ready:
            for asker, data in self._pairs():
                try:
                    yield asker, decode(data)
                except ServingError as error:
                    log.error("a message at the own address: %s", error)

    @staticmethod
    def _drain(socket: Any) -> Iterator[bytes]:
        while True:
            try:
                yield socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return

    def _pairs(self) -> Iterator[tuple[bytes, bytes]]:
        assert self._own is not None
        while True:
            try:
                asker, data = self._own.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except ValueError:  # a message of more or fewer parts is nobody's
                continue
            yield asker, data

    def close(self) -> None:
        """Give what was sent a moment to leave, then close."""
        self._socket.close(linger=1000)
        self._context.destroy(linger=1000)
        os.close(self._event)
