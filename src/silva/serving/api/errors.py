"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from silva.errors import HelperError, SilvaError
from silva.serving.backend import (
    BusyError,
    ChangeRefusedError,
    UnavailableError,
    UnknownPeerError,
)

log = logging.getLogger("silva.api")

CLIENT_GONE = 499
"""nginx's status for a client that did not wait; it is only logged, nobody reads it."""

_RETRY_S = 1.0
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ApiError(SilvaError):
    """An answer other than 200. `param` names the field, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.status, self.param, self.code = status, param, code
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """The error as clients expect it."""
        return {
            "error": {
                "message": str(self),
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


class ClientGoneError(Exception):
    """The client closed the connection before its answer was complete."""


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request can never succeed as it is."""
    return ApiError(400, message, param=param, code=code)


def unknown_model(name: str) -> ApiError:
    """404, the same for a model that does not exist and one that the key does not open."""
    message = f"the model {name!r} does not exist or you have no access to it"
    return ApiError(404, message, param="model", code="model_not_found")


def as_api_error(error: Exception) -> ApiError:
    """What any exception means to the client; an unexpected one is logged with its traceback."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        retry_s = error.retry_after_s
        return ApiError(429, str(error), code="rate_limit_exceeded", retry_after_s=retry_s)
    if isinstance(error, UnavailableError | HelperError):
        return ApiError(503, str(error), code="service_unavailable", retry_after_s=_RETRY_S)
    if isinstance(error, UnknownPeerError):
        return ApiError(404, str(error), code="unknown_peer")
    if isinstance(error, ChangeRefusedError):
        return ApiError(409, str(error), code="change_refused")
    if isinstance(error, SilvaError):
        return bad_request(str(error))
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return ApiError(500, "the server failed on this request; its log says why", code="internal")


def error_response(error: ApiError) -> Response:
    """The error as a whole response."""
    return Response(
        json.dumps(error.body()),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )


def install(app: FastAPI) -> None:
    """Let every exception of a handler end as a response in OpenAI's shape."""

    async def on_silva(_: Request, error: Exception) -> Response:
        return error_response(as_api_error(error))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(_of_http(request.url.path, error))

    async def on_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    app.add_exception_handler(SilvaError, on_silva)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientGoneError, on_gone)


def _of_http(path: str, error: HTTPException) -> ApiError:
    """Starlette's own: no such path, wrong method."""
    messages: Mapping[int, str] = {
        404: f"no such path: {path[:200]}",
        405: f"{path[:200]} does not know this method",
    }
    found = ApiError(error.status_code, messages.get(error.status_code, str(error.detail)))
    found.headers.update(error.headers or {})
    return found
