"""A chat as the tokens of its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from silva.serving.api.errors import bad_request
from silva.serving.api.messages import spelt_out, template_messages, template_tools
from silva.serving.api.schemas.chat import Message, Tool
from silva.serving.api.server import TextServer

_OWN = frozenset({"messages", "tools", "add_generation_prompt"})


async def chat_tokens(
    server: TextServer,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    variables: Mapping[str, Any] | None,
    *,
    add_generation_prompt: bool = True,
) -> tuple[int, ...]:
    """Through the model's template; one that knows no tools gets them spelt out as text.

    Raises SilvaError for messages that the template refuses.
    """
    if variables and not _OWN.isdisjoint(variables):
        name = sorted(_OWN & set(variables))[0]
        message = f"chat_template_kwargs: {name} has a field of its own"
        raise bad_request(message, param="chat_template_kwargs")
    plain, listed = template_messages(messages), template_tools(tools)
    uses_tools = listed or any(m["role"] == "tool" or "tool_calls" in m for m in plain)
    if uses_tools and "tools" not in server.text.chat_template:
        plain, listed = spelt_out(plain, listed), None

    def tokens() -> tuple[int, ...]:
        try:
            rendered = server.text.render(
                plain,
                tools=listed,
                add_generation_prompt=add_generation_prompt,
                variables=variables or {},
            )
        except RecursionError as error:
            raise bad_request("messages: nested too deeply", param="messages") from error
        return tuple(server.text.encode(rendered, add_special=False))

    return await server.threads.beside(tokens)
