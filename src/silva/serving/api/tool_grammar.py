"""The grammar of an answer that has to call tools, in the model's own way of writing calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from silva.serving.api.grammar import ANY_OBJECT, Grammars
from silva.serving.api.schemas.chat import Function
from silva.serving.api.tools import CLOSE, OPEN, ToolFormat


def tool_lark(
    functions: Sequence[Function],
    kind: ToolFormat,
    grammars: Grammars,
    *,
    only_one: bool,
    or_schema: dict[str, Any] | None = None,
) -> str:
    """Lark source: one call or, unless `only_one`, several; or JSON of `or_schema` instead.

    Each function's arguments are a grammar of their own, so that a `$ref` means what it says in the
    function's schema. Raises ApiError 400 for a schema beyond the limits.
    """
    key = "arguments" if kind == "hermes" else "parameters"
    before, after, between = (
        (f"{OPEN}\n", f"\n{CLOSE}", "\n") if kind == "hermes" else ("", "", "; ")
    )
    names = [f"call_{index}" for index in range(len(functions))]
    call = f"({' | '.join(names)})"
    calls = call if only_one else f"{call} ({_quoted(between)} {call})*"
    rules = [f"start: calls{' | answer' if or_schema is not None else ''}", f"calls: {calls}"]
    for index, function in enumerate(functions):
        head = f'{before}{{"name": {json.dumps(function.name)}, "{key}": '
        rules.append(f"call_{index}: {_quoted(head)} arguments_{index} {_quoted('}' + after)}")
        schema = {**ANY_OBJECT, **(function.parameters or {})}
        param = f"tools.{index}.function.parameters"
        rules.append(f"arguments_{index}: {grammars.json_rule(schema, param)}")
    if or_schema is not None:
        rules.append(f"answer: {grammars.json_rule(or_schema, 'response_format')}")
    return "\n".join(rules)


def _quoted(text: str) -> str:
    """A literal of Lark; function names and marks need no more than JSON's escapes."""
    return json.dumps(text)
