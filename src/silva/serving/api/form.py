"""A body that is a form (multipart/form-data, RFC 7578), within limits, against its schema."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from silva.serving.api.body import Holder, checked, read_bytes
from silva.serving.api.errors import bad_request
from silva.serving.api.settings import ApiSettings

FORM = "multipart/form-data"
MOST_TEXT_BYTES = 4096
"""Of a field that is no file."""
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

    Raises ApiError 400 for what is not a form, has more than `most` files or as many other fields, or
    is not of the schema, and what `read_bytes` raises.
    """
    body = await read_bytes(request, settings, holder)
    form = await _parsed(request.headers.get("content-type", ""), body, most)
    try:
        fields: dict[str, Any] = {name: [] for name in files if name in form}
        for name, value in form.multi_items():
            place = name[:80]
            if (name in files) != isinstance(value, UploadFile):
                wanted = "a file" if name in files else "a field without a file's name"
                raise bad_request(f"{place}: send it as {wanted}", param=place)
            if isinstance(value, UploadFile):
                fields[name].append(await value.read())
            elif name in fields:
                raise bad_request(f"{place}: is there more than once", param=place)
            else:
                fields[name] = value
    finally:
        await form.close()
    return checked(lambda: schema.model_validate(fields))


async def _parsed(kind: str, body: bytes, most: int) -> FormData:
    """What starlette finds in the body. Its files are in memory, as the body is already."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers({"content-type": kind}),
        stream(),
        max_files=most,
        max_fields=most,
        max_part_size=MOST_TEXT_BYTES,
    )
    parser.spool_max_size = len(body) + 1
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise bad_request(f"form: {error.message}", code="invalid_form") from error
