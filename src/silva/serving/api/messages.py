"""A chat's messages as its template wants them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from silva.serving.api.errors import bad_request
from silva.serving.api.schemas.chat import Message, Tool
from silva.serving.api.tools import CLOSE, OPEN

_HOW_TO_CALL = (
    "You may call functions to answer. They are listed within <tools></tools>, one a line:\n"
    f"<tools>\n%s\n</tools>\nFor each call write its name and arguments as JSON:\n"
    f'{OPEN}\n{{"name": <name>, "arguments": <arguments>}}\n{CLOSE}'
)


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """One dictionary a message: role, content as one text, calls with their arguments parsed.

    Raises ApiError 400 for a message that lacks what its role needs.
    """
    return [_plain(message, f"messages.{index}") for index, message in enumerate(messages)]


def _plain(message: Message, where: str) -> dict[str, Any]:
    content = _text(message)
    if content is None and not (message.role == "assistant" and message.tool_calls):
        raise bad_request(f"{where}.content: is missing", param=f"{where}.content")
    # Templates know no developer; it is what models call the system.
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": content or ""}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        plain["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "type": "function",
                "id": call.id or "",
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments, where),
                },
            }
            for call in message.tool_calls
        ]
    return plain


def _text(message: Message) -> str | None:
    if isinstance(message.content, list):
        return "".join(part.text for part in message.content)
    return message.content if message.content is not None else message.refusal


def _arguments(text: str, where: str) -> Any:
    """Templates print the arguments themselves, so they want the object and not its text."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        message = f"{where}.tool_calls: arguments are not the text of a JSON object"
        raise bad_request(message, param=f"{where}.tool_calls")
    return found


def template_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    """The functions as templates list them; None without any, which templates take for no tools."""
    if not tools:
        return None
    return [tool.model_dump(exclude_none=True) for tool in tools]


def spelt_out(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """The same chat for a template that knows no tools: in Hermes' way, as plain text."""
    plain = [_spelt(message) for message in messages]
    if tools:
        listed = "\n".join(json.dumps(tool["function"]) for tool in tools)
        how = _HOW_TO_CALL.replace("%s", listed)
        if plain and plain[0]["role"] == "system":
            plain[0] = {**plain[0], "content": f"{plain[0]['content']}\n\n{how}"}
        else:
            plain.insert(0, {"role": "system", "content": how})
    return plain


def _spelt(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        answer = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": answer}
    calls = [
        f"{OPEN}\n{json.dumps(call['function'])}\n{CLOSE}" for call in message.get("tool_calls", ())
    ]
    text = "\n".join([message["content"], *calls] if message["content"] else calls)
    return {**{k: v for k, v in message.items() if k != "tool_calls"}, "content": text}
