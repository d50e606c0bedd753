"""Bad input: 400 in OpenAI's shape that names the field; never 422, never 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_fakes import CONTEXT, MODEL, FakeBackend, FakeText
from api_transport import Api
from hypothesis import given
from hypothesis import strategies as st

from silva.serving.api.app import create_app
from silva.serving.api.settings import ApiSettings

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": MODEL, "prompt": "Hi"}
PATHS = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    settings = ApiSettings(max_body_bytes=20_000, max_choices=4, max_prompts=8)
    with Api(create_app(FakeBackend(), FakeText(), settings)) as found:
        yield found


def check_shape(answer: httpx.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}],
                    }
                ]
            },
            "messages.0.tool_calls",
        ),
        ({"model": None}, "model"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"seed": 1 << 63}, "seed"),
        ({"logit_bias": {"abc": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"temprature": 1}, "temprature"),
        ({"priority": -1}, "priority"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format",
        ),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
    ],
)
def test_a_mistake_in_a_chat_names_the_field(api: Api, more: dict[str, Any], param: str) -> None:
    answer = api.post("/v1/chat/completions", json={**CHAT, **more})
    assert answer.status_code == 400
    error = check_shape(answer)
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert param.split(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": ["x"] * 9}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [1] * CONTEXT}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_a_mistake_in_a_completion_names_the_field(
    api: Api, more: dict[str, Any], param: str
) -> None:
    answer = api.post("/v1/completions", json={**TEXT, **more})
    assert answer.status_code == 400
    assert check_shape(answer)["param"].startswith(param)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"nan",
        b'{"model": "\\ud800", "prompt": "x", "messages": []}',
        b'{"model": ' + b"9" * 5000 + b"}",
        b"[" * 5000,
        b'{"a":' * 3000,
    ],
)
def test_what_is_not_json(api: Api, path: str, content: bytes) -> None:
    answer = api.post(path, content=content)
    assert answer.status_code == 400
    check_shape(answer)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_beyond_the_limit(api: Api, path: str) -> None:
    answer = api.post(path, content=b" " * 20_001)
    assert answer.status_code == 413
    assert "20000" in check_shape(answer)["message"]


def test_a_body_beyond_the_limit_in_chunks(api: Api) -> None:
    answer = api.post("/v1/completions", content=(b" " * 1000 for _ in range(30)))
    assert answer.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("PUT", PATHS[0], 405)])
def test_no_such_path_or_method(api: Api, method: str, path: str, status: int) -> None:
    answer = api.request(method, path)
    assert answer.status_code == status
    check_shape(answer)


def test_a_model_without_a_chat_template(api: Api) -> None:
    with Api(create_app(FakeBackend(), FakeText(""))) as plain:
        answer = plain.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 400
        assert "/v1/completions" in check_shape(answer)["message"]


def test_null_means_not_given(api: Api) -> None:
    names = "n stream stop seed temperature top_p tools tool_choice response_format".split()
    answer = api.post("/v1/chat/completions", json={**CHAT, **dict.fromkeys(names)})
    assert answer.status_code == 200


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", MODEL, "json_schema", "function", "required", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from("role content type function name parameters schema 1".split()),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
fields = st.sampled_from(
    "model messages prompt n stream stream_options stop seed temperature top_p top_k min_p "
    "max_tokens logprobs top_logprobs logit_bias response_format tools tool_choice priority "
    "chat_template_kwargs tokens stop_token_ids metadata timings".split()
)


@given(st.sampled_from(PATHS), st.booleans(), st.dictionaries(fields, anything, max_size=4))
def test_any_body_is_answered_or_refused(
    api: Api, path: str, sound: bool, body: dict[str, Any]
) -> None:
    base = {} if not sound else TEXT if path == "/v1/completions" else CHAT
    answer = api.post(path, content=json.dumps({**base, **body}).encode())
    assert answer.status_code in (200, 400, 404)
    if answer.status_code != 200:
        check_shape(answer)


@given(st.sampled_from(PATHS), st.binary(max_size=60))
def test_any_bytes_are_refused(api: Api, path: str, content: bytes) -> None:
    assert api.post(path, content=content).status_code == 400
