"""Chat templates: messages and tools as the text of a prompt, as the model's authors wrote it.

Templates are programs from outside. They run in Jinja's immutable sandbox, in a process of their
own with bounds on time, memory and length (`template_worker`): loops of 10^10 turns, texts of 10^12
characters and numbers like 10^10^10 end one rendering, and the next one starts afresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from silva.errors import ModelError, PromptError
from silva.models.fields import read_json, short
from silva.models.template_process import TemplateProcess
from silva.models.tokenizer import TOKENIZER_CONFIG, special_names

TEMPLATE = "chat_template.jinja"
LARGEST_TEMPLATE = 1 << 20
"""Characters; those of large models have some 10,000."""

RENDER_LIMIT_S = 2.0
"""Of processor time; a usual rendering takes a millisecond."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names that a message's reasoning goes by; templates read the first two."""


class ChatTemplate:
    """One model's template. May be used by several threads; they wait for each other."""

    def __init__(
        self,
        source: str,
        names: Mapping[str, str],
        *,
        with_tools: str = "",
        where: object = TEMPLATE,
    ) -> None:
        """`names`: special tokens, such as bos_token, that the template may use.

        `with_tools` is another template for chats with tools, where the model has one. Raises
        ModelError for templates that are no Jinja, HelperError where its process cannot be had.
        """
        self.source, self._with_tools, self._names = source, with_tools, dict(names)
        self._process = TemplateProcess(RENDER_LIMIT_S)
        for text in filter(None, (source, with_tools)):
            if len(text) > LARGEST_TEMPLATE:
                raise ModelError(f"chat template of {len(text)} characters", where=where)
            found = self._process.ask({"source": text})
            if "text" not in found:
                why = " ".join(found.values())
                raise ModelError(f"the chat template is broken ({why})", where=where)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The chat as one text, special tokens included.

        Fields of a message that are None are left out. `variables` are handed to the template, and
        win over special tokens of the same name. Raises PromptError where the template refuses
        the messages, fails on them, or goes beyond a limit; HelperError where its process cannot
        be had.
        """
        request = {
            "source": self._with_tools if tools and self._with_tools else self.source,
            "variables": {
                **self._names,
                **(variables or {}),
                "messages": [_message(m) for m in messages],
                "tools": list(tools) if tools else None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            },
        }
        try:
            found = self._process.ask(request)
        except (ValueError, TypeError, RecursionError) as error:
            raise PromptError(f"the messages are no JSON ({error})") from None
        if "refused" in found:
            raise PromptError(f"the chat template says: {found['refused']}")
        if "text" not in found:
            why = " ".join(found.values())
            raise PromptError(f"the chat template fails on these messages ({why})")
        return found["text"]

    def close(self) -> None:
        """End the template's process."""
        self._process.close()


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """As templates expect it: no None, reasoning under the names in use."""
    plain = {key: value for key, value in message.items() if value is not None}
    reasoning = next((plain[name] for name in _REASONING if name in plain), None)
    if reasoning is None:
        return plain
    return {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """The template of a Hugging Face directory, None where it has none. Raises ModelError.

    `chat_template.jinja` wins over the field of `tokenizer_config.json`.
    """
    path = folder / TEMPLATE
    if path.is_file():
        try:
            with path.open(encoding="utf-8") as file:
                source = file.read(LARGEST_TEMPLATE + 1)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot be read ({error})", where=path) from None
        return ChatTemplate(source, special_names(folder), where=path)
    path = folder / TOKENIZER_CONFIG
    listed = _listed(read_json(path).get("chat_template"), path) if path.is_file() else {}
    if not listed:
        return None
    with_tools = listed.get("tool_use", "")
    return ChatTemplate(
        listed.get("default") or with_tools,
        special_names(folder),
        with_tools=with_tools,
        where=path,
    )


def _listed(value: object, where: Path) -> dict[str, str]:
    """Templates by name: one text is the default, a list names several."""
    if value is None:
        return {}
    entries = value if isinstance(value, list) else [{"name": "default", "template": value}]
    found = {}
    for entry in entries:
        name, template = (
            (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(name, str) or not isinstance(template, str):
            raise ModelError(f"chat_template: {short(value)} is no text", where=where)
        found[name] = template
    if not {"default", "tool_use"} & found.keys():
        raise ModelError("chat_template: none is named default", where=where)
    return found
