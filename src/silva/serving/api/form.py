"""A body that is a form, within limits, against its schema."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from silva.serving.api.body import Holder, checked, read_bytes
from silva.serving.api.errors import bad_request
from silva.serving.api.multipart import boundary_of, parts_of
from silva.serving.api.settings import ApiSettings

Model = TypeVar("Model", bound=BaseModel)


async def read_form(
    request: Request,
    schema: type[Model],
    files: Collection[str],
    most: int,
    settings: ApiSettings,
    holder: Holder | None = None,
) -> Model:
    """The form as a `schema`, in which `files` are lists of bytes and all others are texts.

    Raises ApiError 400 for what is not a form, has more than `most` parts or is not of the schema,
    and what `read_bytes` raises.
    """
    boundary = boundary_of(request.headers.get("content-type", ""))
    body = await read_bytes(request, settings, holder)
    fields: dict[str, Any] = {}
    for part in parts_of(body, boundary, most):
        if part.name in files:
            fields.setdefault(part.name, []).append(part.content)
        elif part.name in fields:
            place = part.name[:80]
            raise bad_request(f"{place}: is there more than once", param=place)
        else:
            fields[part.name] = part.text()
    return checked(lambda: schema.model_validate(fields))
