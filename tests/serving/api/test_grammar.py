"""Schemas to grammars: what they let through, and what is refused before anything is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from api_fakes import FakeText
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from silva.serving.api.errors import ApiError
from silva.serving.api.grammar import Grammars
from silva.serving.api.schemas.chat import Function
from silva.serving.api.settings import ApiSettings
from silva.serving.api.text import TextThreads
from silva.serving.api.tool_grammar import tool_lark
from silva.serving.engine.grammar import MAX_GRAMMAR_BYTES

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string"}},
}
FUNCTIONS = [Function(name="weather", parameters=CITY), Function(name="now")]


class Bytes:
    """A token a byte, and an end token."""

    eos_token_id, bos_token_id = 256, None
    tokens = [*(FakeText().token_bytes(t) for t in range(256)), b"</s>"]  # noqa: RUF012
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = LLTokenizer(TokenizerWrapper(Bytes()))


@pytest.fixture
def grammars() -> Grammars:
    return Grammars(ApiSettings(), TextThreads())


def run(work: Coroutine[Any, Any, str]) -> str:
    return asyncio.run(work)


def accepts(grammar: str, text: str) -> bool:
    matcher = LLMatcher(TOKENIZER, grammar)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return matcher.validate_tokens(tokens) == len(tokens) and (
        matcher.consume_tokens(tokens) and matcher.is_accepting()
    )


def test_a_schema(grammars: Grammars) -> None:
    grammar = run(grammars.of_schema(CITY, "response_format"))
    assert accepts(grammar, '{"city": "Bern"}')
    assert not accepts(grammar, '{"city": 5}')
    assert not accepts(grammar, '{"city": "Bern"')


def test_white_space_cannot_go_on_for_ever(grammars: Grammars) -> None:
    grammar = run(grammars.of_schema(CITY, "response_format"))
    assert not accepts(grammar, '{ "city": "Bern"}')


def test_a_grammar_is_compiled_once(grammars: Grammars) -> None:
    first = run(grammars.of_schema(CITY, "response_format"))
    assert run(grammars.of_schema(dict(CITY), "response_format")) is first


HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
LLAMA = '{"name": "weather", "parameters": {"city": "Bern"}}'


def test_forced_calls_in_hermes_way(grammars: Grammars) -> None:
    lark = tool_lark(FUNCTIONS, "hermes", grammars, only_one=False)
    grammar = run(grammars.of_lark(lark, "tools"))
    assert accepts(grammar, HERMES)
    assert accepts(grammar, f"{HERMES}\n{HERMES}")
    assert accepts(grammar, HERMES.replace("weather", "now").replace('"city"', '"zone"'))
    assert not accepts(grammar, HERMES.replace("weather", "other"))
    assert not accepts(grammar, "Hello")


def test_forced_calls_in_llama3_way(grammars: Grammars) -> None:
    lark = tool_lark(FUNCTIONS, "llama3", grammars, only_one=True)
    grammar = run(grammars.of_lark(lark, "tools"))
    assert accepts(grammar, LLAMA)
    assert not accepts(grammar, f"{LLAMA}; {LLAMA}")


def test_calls_or_json(grammars: Grammars) -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    lark = tool_lark(FUNCTIONS, "hermes", grammars, only_one=False, or_schema=schema)
    grammar = run(grammars.of_lark(lark, "tools"))
    assert accepts(grammar, "[1, 2]")
    assert accepts(grammar, HERMES)
    assert not accepts(grammar, "hello")


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "objct"}, "objct"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "https://example.org/schema.json"}, "example.org"),
        ({"$ref": "#"}, "nothing can follow"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "minimum"),
        (nested(40), "deeper"),
        ({"enum": ["x" * 70_000]}, "longer"),
        ({"const": float("nan")}, "not JSON"),
    ],
)
def test_a_schema_that_is_refused(grammars: Grammars, schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as caught:
        run(grammars.of_schema(schema, "response_format"))
    assert caught.value.status == 400
    assert caught.value.param == "response_format"
    assert str(caught.value).isprintable()


def test_schemas_of_many_tools_have_a_limit_together(grammars: Grammars) -> None:
    """An engine follows no grammar of more than a MiB."""
    long = {"type": "object", "description": "x" * 60_000}
    several = [Function(name=f"f{number}", parameters=long) for number in range(20)]
    lark = tool_lark(several, "hermes", grammars, only_one=False)
    with pytest.raises(ApiError, match="together") as caught:
        run(grammars.of_lark(lark, "tools"))
    assert (caught.value.status, caught.value.param) == (400, "tools")
    lark = tool_lark(several[:10], "hermes", grammars, only_one=False)
    assert len(run(grammars.of_lark(lark, "tools")).encode()) <= MAX_GRAMMAR_BYTES


schemas = st.recursive(
    st.sampled_from([True, False, None, 1, "string", "#", "(", "object", "array"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "type properties items anyOf allOf oneOf enum const $ref pattern required minItems "
                "additionalProperties minimum $defs prefixItems format x-guidance %json".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from("type properties items anyOf $ref".split()), schemas))
def test_any_schema_is_a_grammar_or_refused(schema: dict[str, Any]) -> None:
    grammars = Grammars(ApiSettings(), TextThreads())
    try:
        grammar = run(grammars.of_schema(schema, "response_format"))
    except ApiError as error:
        assert error.status == 400
    else:
        assert not LLMatcher(TOKENIZER, grammar).is_error()
