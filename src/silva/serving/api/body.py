"""Reads a request's body within limits and checks it against its schema."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from silva.serving.api.errors import ApiError, ClientGoneError, bad_request
from silva.serving.api.settings import ApiSettings

Model = TypeVar("Model", bound=BaseModel)

_SHOWN = 300


class Holder(Protocol):
    """Counts the bytes that are kept; refuses by raising."""

    def hold(self, count: int) -> None: ...


async def read_body(
    request: Request, schema: type[Model], settings: ApiSettings, holder: Holder | None = None
) -> Model:
    """The body as a `schema`.

    Raises ApiError 400 for what is not JSON or not of the schema, and what `read_bytes` raises.
    """
    content = await read_bytes(request, settings, holder)
    return checked(lambda: schema.model_validate_json(content))


def checked(validate: Callable[[], Model]) -> Model:
    """What `validate` finds. Raises ApiError 400 for what is not of the schema."""
    try:
        return validate()
    except ValidationError as error:
        raise _refusal(error) from error


def kind_of(request: Request) -> str:
    """The type that the body is said to have, in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_bytes(
    request: Request, settings: ApiSettings, holder: Holder | None = None
) -> bytes:
    """The body as it is.

    Raises ApiError: 408 for a body that does not arrive, 413 for one that is too long; and what
    `holder` raises.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            # one that is longer than all together may be would be told to come again for ever
            limit = min(settings.max_body_bytes, settings.max_held_bytes)
            return await _read(request, limit, holder)
    except TimeoutError as error:
        raise ApiError(408, "the body did not arrive in time", code="timeout") from error
    except ClientDisconnect as error:
        raise ClientGoneError from error


async def _read(request: Request, limit: int, holder: Holder | None) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_long(limit)
    content = bytearray()
    async for part in request.stream():
        if len(content) + len(part) > limit:
            raise _too_long(limit)
        if holder is not None:
            holder.hold(len(part))
        content += part
    return bytes(content)


def _too_long(limit: int) -> ApiError:
    error = ApiError(413, f"the body is longer than {limit} bytes", code="body_too_long")
    # What was not read of it would be taken for the next request.
    error.headers["connection"] = "close"
    return error


def _refusal(error: ValidationError) -> ApiError:
    """The first mistake, since later ones often follow from it."""
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    first = mistakes[0]
    if first["type"] == "json_invalid":
        return bad_request(_clipped(first["msg"]), code="invalid_json")
    if first["type"] == "extra_forbidden":
        message = "is not a field that this server knows"
    else:
        message = first["msg"]
    place = _clipped(".".join(str(step) for step in first["loc"]))
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return bad_request(_clipped(f"{place or 'body'}: {message}{more}"), param=place or None)


def _clipped(text: str) -> str:
    text = text if text.isprintable() else text.encode("unicode_escape").decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
