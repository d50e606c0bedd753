"""`response_format` as a JSON schema and as a grammar."""

from __future__ import annotations

from typing import Any

from silva.serving.api.errors import bad_request
from silva.serving.api.grammar import ANY_OBJECT, Grammars
from silva.serving.api.schemas.base import ResponseFormat

PARAM = "response_format"


def format_schema(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """The schema that the answer has to follow; None for free text. Raises ApiError 400."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        message = f"{PARAM}.json_schema.schema: is missing"
        raise bad_request(message, param=f"{PARAM}.json_schema.schema")
    return wanted.json_schema.schema_


async def format_grammar(grammars: Grammars, wanted: ResponseFormat | None) -> str:
    """The grammar of `response_format`; empty for free text. Raises ApiError 400."""
    schema = format_schema(wanted)
    return "" if schema is None else await grammars.of_schema(schema, PARAM)
