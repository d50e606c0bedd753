"""Responses: whole JSON, and server-sent events that end when the client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from silva.serving.api.disconnect import while_connected
from silva.serving.api.errors import ClientGoneError, as_api_error

log = logging.getLogger("silva.api")

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def json_response(content: Any, status: int = 200) -> Response:
    """`content` as JSON."""
    return Response(_encode(content), status_code=status, media_type="application/json")


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % _encode(content)


async def open_stream(
    receive: Receive,
    events: AsyncGenerator[bytes, None],
    send_timeout_s: float,
    resources: contextlib.ExitStack,
) -> EventStream:
    """A response that is sent once the first event is there: until then an error has a status.

    The stream takes over `resources` and closes them at its end. Raises what `events` raises, and
    ClientGoneError.
    """
    try:
        first = await while_connected(receive, anext(events))
    except BaseException:
        await events.aclose()
        raise
    return EventStream(first, events, send_timeout_s, resources.pop_all())


class EventStream(Response):
    """Server-sent events. What fails on the way is told as an event in OpenAI's shape."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        events: AsyncGenerator[bytes, None],
        send_timeout_s: float,
        resources: contextlib.ExitStack,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first, self._events = first, events
        self._send_timeout_s, self._resources = send_timeout_s, resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events; returns early, all closed, when the client goes or stops reading."""
        try:
            await while_connected(receive, self._send_all(send))
        except ClientGoneError:
            log.info("the client left its stream")
        except TimeoutError:
            log.warning("the client did not read its stream for %g s", self._send_timeout_s)
        finally:
            try:
                await self._events.aclose()
            finally:
                self._resources.close()

    async def _send_all(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await self._part(send, self._first)
        async for each in _told(self._events):
            await self._part(send, each)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _part(self, send: Send, body: bytes) -> None:
        async with asyncio.timeout(self._send_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def _told(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """`events`, and an error on the way as one more: the status has been sent."""
    try:
        async for each in events:
            yield each
    except Exception as error:
        yield event(as_api_error(error).body())
        yield DONE
