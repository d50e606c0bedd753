"""Tool calls: what is a call, what is text, and that pieces change nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.serving.api.call_scanner import CallArguments, CallStart
from silva.serving.api.tools import (
    AssembledCalls,
    Content,
    ToolEvent,
    ToolFormat,
    ToolParser,
    format_of,
)

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": [1, "}"]}}\n</tool_call>'

DEEP = f'<tool_call>{{"name": {"[" * 5000}{"]" * 5000}, "arguments": {{}}}}'


def parsed(
    text: str | list[str], kind: ToolFormat = "hermes", *, only_one: bool = False
) -> tuple[str, list[tuple[str, str]]]:
    """(content, calls as name and arguments)."""
    parser = ToolParser(kind, only_one=only_one)
    events: list[ToolEvent] = []
    for piece in [text] if isinstance(text, str) else text:
        events += parser.push(piece)
    events += parser.finish()
    calls = AssembledCalls()
    content = ""
    for event in events:
        if isinstance(event, Content):
            content += event.text
        else:
            calls.add(event)
    assert parser.calls == len(calls.calls)
    return content, [(c["function"]["name"], c["function"]["arguments"]) for c in calls.calls]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("plain <b>text</b>\n", "plain <b>text</b>\n", []),
        (CALL, "", [("f", '{"a": [1, "}"]}')]),
        (f"Let me see.\n\n{CALL}", "Let me see.", [("f", '{"a": [1, "}"]}')]),
        (f"{CALL}\n{CALL}\n", "", [("f", '{"a": [1, "}"]}')] * 2),
        (f"{CALL} done", " done", [("f", '{"a": [1, "}"]}')]),
        ('<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>', "", [("g", '{"x": 1}')]),
        ('<tool_call>{"name": "g"}</tool_call>', "", [("g", "{}")]),
        ('<tool_call>{"name": "g", "arguments": "{\\"x\\": 1}"}', "", [("g", '{"x": 1}')]),
        ('<tool_call>{"id": 3, "type": null, "name": "g"}', "", [("g", "{}")]),
        ("a\n<tool_call>no json", "a\n<tool_call>no json", []),
        ('<tool_call>{"name": 5, "arguments": {}}', '<tool_call>{"name": 5, "arguments": {}}', []),
        ('<tool_call>{"name": "f"', '<tool_call>{"name": "f"', []),
        (DEEP, DEEP, []),
        ('<tool_call>{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
        ('<tool_call>{"other": 1}', '<tool_call>{"other": 1}', []),
        (f"<tool_call>{CALL}", "<tool_call>", [("f", '{"a": [1, "}"]}')]),
        ("x <tool", "x <tool", []),
        (f"{CALL}\n<tool_", "\n<tool_", [("f", '{"a": [1, "}"]}')]),
        (CALL[:-3], "", [("f", '{"a": [1, "}"]}')]),
        (
            f'<tool_call>{{"name": "f", "arguments": {{}} oops</tool_call>{CALL}',
            "",
            [("f", "{}"), ("f", '{"a": [1, "}"]}')],
        ),
    ],
)
def test_hermes(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert parsed(text) == (content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("plain {text}", "plain {text}", []),
        ('  {"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')]),
        ('<|python_tag|>{"name": "f", "parameters": {}}', "", [("f", "{}")]),
        ('{"name": "f"}; {"name": "g"}\n', "", [("f", "{}"), ("g", "{}")]),
        ('{"city": "Bern"}', '{"city": "Bern"}', []),
        ('{"name": "Bern", "people": 3}', '{"name": "Bern", "people": 3}', []),
        ("  \n", "  \n", []),
        (" {", " {", []),
        ("{}", "{}", []),
        ("<|python", "<|python", []),
    ],
)
def test_llama3(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert parsed(text, "llama3") == (content, calls)


def test_only_one_call() -> None:
    assert parsed(f"{CALL}\n{CALL} and more", only_one=True)[1] == [("f", '{"a": [1, "}"]}')]
    assert parsed(f"{CALL}\n{CALL} and more", only_one=True)[0] == ""


FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<tool_", "call>", "\n", " ", ";", "x", "<|python_tag|>"),
    *('{"name": "f", "arguments": {}}', '{"name": "f", "arguments": {"a": "{"', "}", "}}", '"'),
    *('{"parameters": {"b": [1]}, "name": "g"}', '{"name": ', ', "arguments": ', "\\", "null", "{"),
]


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=10).map("".join),
    st.lists(st.integers(1, 7), min_size=1, max_size=60),
    st.sampled_from(["hermes", "llama3"]),
    st.booleans(),
)
def test_pieces_change_nothing(
    text: str, sizes: list[int], kind: ToolFormat, only_one: bool
) -> None:
    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert parsed([*pieces, rest], kind, only_one=only_one) == parsed(text, kind, only_one=only_one)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.booleans())
def test_any_arguments_come_through(arguments: dict[str, object], ascii_only: bool) -> None:
    written = json.dumps(arguments, ensure_ascii=ascii_only)
    call = f'{{"name": "f", "arguments": {written}}}'
    assert parsed(list(f"<tool_call>{call}</tool_call>")) == ("", [("f", written)])
    assert parsed(list(call), "llama3") == ("", [("f", written)])


def test_arguments_are_streamed() -> None:
    parser = ToolParser("hermes")
    assert parser.push('<tool_call>{"name": "f", "argum') == []
    assert parser.push('ents": {"a') == [CallStart("f"), CallArguments('{"a')]
    assert parser.push('": 1}') == [CallArguments('": 1}')]
    assert parser.push("}</tool_call>") == []
    assert parser.finish() == []


def test_the_format_is_that_of_the_template() -> None:
    assert format_of("... <tool_call> ...") == "hermes"
    assert format_of('{"name": ..., "parameters": ...}') == "llama3"
    assert format_of("") == "hermes"
