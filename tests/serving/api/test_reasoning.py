"""Reasoning told apart from the answer: in pieces of any size, whole and streamed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from api_fakes import MODEL, FakeBackend, FakeText
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from silva.serving.api.reasoning import ReasoningParser
from silva.serving.api.settings import ApiSettings

THINKS = "{{ messages }} <think></think> {{ tools }}"
THOUGHT = "<think>\nTwo and two.\nFour?\n</think>\n\nIt is 4."
CASES = [
    (THOUGHT, False, "Two and two.\nFour?", "It is 4."),
    ("\n" + THOUGHT, False, "Two and two.\nFour?", "It is 4."),
    ("Two.\n</think>\nIt is 4.\n", True, "Two.", "It is 4.\n"),
    ("<think></think>\n\nIt is 4.", False, "", "It is 4."),
    ("\n</think>4", True, "", "4"),
    ("  It is 4. <think>no</think>", False, "", "  It is 4. <think>no</think>"),
    ("<thin ice>", False, "", "<thin ice>"),
    ("<thi", False, "", "<thi"),
    (" \n", False, "", " \n"),
    ("", True, "", ""),
    ("Two and </thi", True, "Two and </thi", ""),
    ("a < b </ c\n", True, "a < b </ c", ""),
    ("<think>one</think>two</think>three", False, "one", "two</think>three"),
    ("one</think>   ", True, "one", ""),
]


@pytest.mark.parametrize(("answer", "begun", "reasoning", "text"), CASES)
@given(cuts=st.lists(st.integers(0, 50), max_size=8))
def test_pieces_change_nothing(
    answer: str, begun: bool, reasoning: str, text: str, cuts: list[int]
) -> None:
    places = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    parser = ReasoningParser(begun=begun)
    found = [parser.push(answer[a:b]) for a, b in itertools.pairwise(places)]
    found.append(parser.finish())
    assert "".join(each.reasoning for each in found) == reasoning
    assert "".join(each.text for each in found) == text


def ask(client: OpenAI, **more: Any) -> Any:
    messages = [{"role": "user", "content": "2 + 2?"}]
    return client.chat.completions.create(**{"model": MODEL, "messages": messages} | more)


def test_reasoning_is_a_field_of_its_own(
    client: OpenAI, backend: FakeBackend, text: FakeText
) -> None:
    text.chat_template, backend.answer = THINKS, THOUGHT
    found = ask(client)
    message = found.choices[0].message
    assert message.reasoning_content == "Two and two.\nFour?"
    assert message.content == "It is 4."
    assert found.usage.completion_tokens == len(THOUGHT) + 1


def test_reasoning_is_streamed(client: OpenAI, backend: FakeBackend, text: FakeText) -> None:
    text.chat_template, backend.answer = THINKS, THOUGHT
    reasoning = content = ""
    for chunk in ask(client, stream=True):
        delta = chunk.choices[0].delta
        assert not (content and getattr(delta, "reasoning_content", None))
        reasoning += getattr(delta, "reasoning_content", None) or ""
        content += delta.content or ""
    assert (reasoning, content) == ("Two and two.\nFour?", "It is 4.")


def test_a_prompt_that_ends_with_the_mark_has_begun(
    client: OpenAI, backend: FakeBackend, text: FakeText
) -> None:
    text.chat_template, backend.answer = THINKS, "Four?\n</think>\n4"
    # The template of these tests prints its variables last.
    more = {"add_generation_prompt": False, "chat_template_kwargs": {"begin": "<think>\n"}}
    message = ask(client, extra_body=more).choices[0].message
    assert (message.reasoning_content, message.content) == ("Four?", "4")


def test_reasoning_before_calls(client: OpenAI, backend: FakeBackend, text: FakeText) -> None:
    text.chat_template = THINKS
    backend.answer = '<think>I look.</think><tool_call>{"name": "now"}</tool_call>'
    tools = [{"type": "function", "function": {"name": "now"}}]
    choice = ask(client, tools=tools).choices[0]
    assert choice.message.reasoning_content == "I look."
    assert choice.message.content is None
    assert [call.function.name for call in choice.message.tool_calls] == ["now"]


def test_reasoning_may_come_back(client: OpenAI, backend: FakeBackend) -> None:
    messages = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "Four?"},
        {"role": "user", "content": "Sure?"},
    ]
    assert ask(client, messages=messages).choices[0].message.content == backend.answer


@pytest.mark.parametrize(
    ("settings", "template", "splits"),
    [
        (ApiSettings(), "{{ messages }}", False),
        (ApiSettings(reasoning_format="think"), "{{ messages }}", True),
        (ApiSettings(reasoning_format="none"), THINKS, False),
    ],
)
def test_who_does_not_think_is_not_split(
    start: Any, backend: FakeBackend, text: FakeText, settings: Any, template: str, splits: bool
) -> None:
    text.chat_template, backend.answer = template, THOUGHT
    url = start(settings).url
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        message = ask(client).choices[0].message
    assert message.content == ("It is 4." if splits else THOUGHT)
    assert hasattr(message, "reasoning_content") == splits


def test_an_answer_that_follows_a_grammar_is_not_split(
    client: OpenAI, backend: FakeBackend, text: FakeText
) -> None:
    text.chat_template, backend.answer = THINKS, '{"a": "<think>"}'
    found = ask(client, response_format={"type": "json_object"})
    assert found.choices[0].message.content == backend.answer
