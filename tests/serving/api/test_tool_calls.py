"""Tools through the openai client: prompts, forced grammars, calls whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from api_fakes import MODEL, FakeBackend, FakeText
from openai import OpenAI

USER = [{"role": "user", "content": "How is the weather in Bern?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
CALLS = (
    'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)


def ask(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(
        **{"model": MODEL, "messages": USER, "tools": TOOLS} | more
    )


def test_calls(client: OpenAI, backend: FakeBackend, text: FakeText) -> None:
    backend.answer = CALLS
    choice = ask(client).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    first, second = choice.message.tool_calls
    assert (first.function.name, first.function.arguments) == ("weather", '{"city": "Bern"}')
    assert (second.function.name, second.function.arguments) == ("now", "{}")
    assert first.id != second.id
    assert '"name": "weather"' in text.rendered[0]
    assert backend.requests[0].sampling.grammar == ""


def test_calls_streamed(client: OpenAI, backend: FakeBackend) -> None:
    backend.answer = CALLS
    content, calls, finish = "", {}, None
    for chunk in ask(client, stream=True):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        finish = choice.finish_reason or finish
        for part in choice.delta.tool_calls or ():
            call = calls.setdefault(part.index, {"id": part.id, "name": "", "arguments": ""})
            call["name"] += part.function.name or ""
            call["arguments"] += part.function.arguments or ""
    assert (content, finish) == ("I look.", "tool_calls")
    assert calls[0] == {"id": calls[0]["id"], "name": "weather", "arguments": '{"city": "Bern"}'}
    assert calls[1]["name"] == "now"
    assert calls[0]["id"].startswith("call_")


def test_the_streaming_helper_of_the_client(client: OpenAI, backend: FakeBackend) -> None:
    backend.answer = CALLS
    with client.chat.completions.stream(model=MODEL, messages=USER, tools=TOOLS) as stream:  # type: ignore[arg-type]
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Bern"}


def test_a_named_function_is_forced(client: OpenAI, backend: FakeBackend) -> None:
    backend.answer = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    choice = {"type": "function", "function": {"name": "now"}}
    found = ask(client, tool_choice=choice).choices[0]
    assert found.message.content is None
    assert [c.function.name for c in found.message.tool_calls] == ["now"]
    grammar = backend.requests[0].sampling.grammar
    assert "now" in grammar
    assert "weather" not in grammar


def test_required_forces_any(client: OpenAI, backend: FakeBackend) -> None:
    ask(client, tool_choice="required")
    grammar = backend.requests[0].sampling.grammar
    assert "now" in grammar and "weather" in grammar


def test_none_shows_no_tools(client: OpenAI, backend: FakeBackend, text: FakeText) -> None:
    backend.answer = CALLS
    found = ask(client, tool_choice="none").choices[0]
    assert found.message.content == CALLS
    assert found.message.tool_calls is None
    assert "weather" not in text.rendered[0].partition("\n")[2]


def test_one_call_at_most(client: OpenAI, backend: FakeBackend) -> None:
    backend.answer = CALLS
    found = ask(client, parallel_tool_calls=False).choices[0]
    assert [c.function.name for c in found.message.tool_calls] == ["weather"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": None, "tool_choice": "required"},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {
            "tools": [
                {"type": "function", "function": {"name": "a", "parameters": {"type": "objct"}}}
            ],
            "tool_choice": "required",
        },
    ],
)
def test_tools_that_do_not_fit(client: OpenAI, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **wrong)
    assert caught.value.param is not None
    assert caught.value.param.startswith("tool")


def test_answers_of_tools_go_to_the_template(
    client: OpenAI, backend: FakeBackend, text: FakeText
) -> None:
    backend.answer = CALLS
    message = ask(client).choices[0].message
    answers = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls
    ]
    ask(client, messages=[*USER, message.model_dump(), *answers])
    assert "tool: sunny" in text.rendered[1]
    assert '"arguments": {"city": "Bern"}' in text.rendered[1]


def test_a_template_without_tools_gets_them_as_text(
    client: OpenAI, backend: FakeBackend, text: FakeText
) -> None:
    text.chat_template = "messages"
    backend.answer = CALLS
    message = ask(client).choices[0].message
    assert text.rendered[0].startswith("system: You may call functions")
    assert '"weather"' in text.rendered[0]
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    ask(client, messages=[{"role": "system", "content": "Be brief."}, *USER, message, answer])
    assert text.rendered[1].startswith("system: Be brief.\n\nYou may call")
    assert "user: <tool_response>\nsunny" in text.rendered[1]
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}' in text.rendered[1]


def test_a_length_is_still_a_length(client: OpenAI, backend: FakeBackend) -> None:
    backend.answer = CALLS
    found = ask(client, max_tokens=60).choices[0]
    assert found.finish_reason == "length"
    assert '{"city": "Bern"}'.startswith(found.message.tool_calls[0].function.arguments)
