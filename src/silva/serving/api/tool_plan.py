"""What `tools` and `tool_choice` mean for one chat: what is rendered, forced and parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from silva.serving.api.errors import bad_request
from silva.serving.api.response_format import PARAM, format_grammar, format_schema
from silva.serving.api.schemas.chat import ChatBody, Function, NamedTool, Tool
from silva.serving.api.server import TextServer
from silva.serving.api.tool_grammar import tool_lark
from silva.serving.api.tools import ToolFormat, ToolParser, format_of


@dataclass(frozen=True)
class ToolPlan:
    """How one chat uses tools."""

    shown: tuple[Tool, ...] = ()
    """Those that the prompt lists."""
    forced: tuple[Function, ...] = ()
    """Those of which one has to be called."""
    only_one: bool = False
    kind: ToolFormat = "hermes"

    def parser(self) -> ToolParser | None:
        """A parser for one answer; None where calls are not looked for."""
        return ToolParser(self.kind, only_one=self.only_one) if self.shown else None


def tool_plan(server: TextServer, body: ChatBody) -> ToolPlan:
    """Raises ApiError 400 for a choice that does not go with the tools."""
    tools, choice = tuple(body.tools or ()), body.tool_choice
    if not tools:
        if choice in (None, "none", "auto"):
            return ToolPlan()
        raise bad_request("tool_choice: there are no tools to choose from", param="tool_choice")
    if choice == "none":
        return ToolPlan()
    set_format = server.settings.tool_format
    kind = format_of(server.text.chat_template) if set_format == "auto" else set_format
    functions = tuple(tool.function for tool in tools)
    forced: tuple[Function, ...] = ()
    if isinstance(choice, NamedTool):
        forced = tuple(f for f in functions if f.name == choice.function.name)[:1]
        if not forced:
            message = f"tool_choice: {choice.function.name[:64]!r} is not among the tools"
            raise bad_request(message, param="tool_choice")
    elif choice == "required":
        forced = functions
    only_one = isinstance(choice, NamedTool) or body.parallel_tool_calls is False
    return ToolPlan(tools, forced, only_one, cast(ToolFormat, kind))


async def chat_grammar(server: TextServer, body: ChatBody, plan: ToolPlan) -> str:
    """The grammar of the answer: forced calls, JSON, or either; empty for free text.

    Raises ApiError 400 for schemas that cannot be followed.
    """
    schema = format_schema(body.response_format)
    if not plan.shown or (schema is None and not plan.forced):
        return await format_grammar(server.grammars, body.response_format)
    lark = tool_lark(
        plan.forced or tuple(tool.function for tool in plan.shown),
        plan.kind,
        server.grammars,
        only_one=plan.only_one,
        or_schema=None if plan.forced else schema,
    )
    return await server.grammars.of_lark(lark, "tools" if schema is None else PARAM)
