"""Around every HTTP request: its id, its line in the log, its count, and the last resort."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from silva.serving.api.errors import as_api_error, error_response
from silva.serving.api.ids import REQUEST_ID, current, request_id

log = logging.getLogger("silva.api.access")

ID_IN_SCOPE = "silva.request_id"


class Envelope:
    """The outermost layer; plain ASGI, so that streams pass through it untouched."""

    def __init__(self, app: ASGIApp, count: Callable[[str, int], None]) -> None:
        """`count` is told the path, as the routes name it, and the status."""
        self._app, self._count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other kinds of traffic are passed through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = request_id(Headers(scope=scope))
        scope[ID_IN_SCOPE] = found
        token = current.set(found)
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message["headers"])[REQUEST_ID] = found.shown
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            response = error_response(as_api_error(error))
            if status:
                raise  # too late to say so: the connection has to break
            await response(scope, receive, answer)
        finally:
            self._count(_path(scope), status)
            elapsed_ms = (time.perf_counter() - started) * 1e3
            log.info("%s %s %d %.1f ms", scope["method"], _shown(scope), status, elapsed_ms)
            current.reset(token)


def _path(scope: Scope) -> str:
    """The route's pattern, so that the number of series does not grow with what is asked."""
    return getattr(scope.get("route"), "path", "other")


def _shown(scope: Scope) -> str:
    """The path without characters that could forge a line of the log."""
    path: str = scope["path"][:200]
    return path if path.isprintable() else path.encode("unicode_escape").decode()
