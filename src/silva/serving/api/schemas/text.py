"""The bodies of `/tokenize` and `/detokenize`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from silva.serving.api.schemas.base import Body, ModelName, TokenId
from silva.serving.api.schemas.chat import MAX_MESSAGES, MAX_TOOLS, Message, Tool


class TokenizeBody(Body):
    """Either a text or a chat; the latter goes through the chat template."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    add_special_tokens: bool | None = None
    """Of a text: whether it gets the model's begin token; it does unless told otherwise."""
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, max_length=32)
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """Token ids, special ones shown unless they are to be skipped."""

    model: ModelName | None = None
    tokens: list[TokenId]
    skip_special_tokens: bool | None = None
