"""A client that goes away: its request is cancelled, clean-up runs, the place is given back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from api_fakes import EOS, MODEL, FakeBackend, FakeText
from api_server import Running
from fastapi import FastAPI

from silva.serving.api.app import create_app
from silva.serving.api.settings import ApiSettings

Spoken = list[dict[str, Any]]


def endless(_: Any) -> list[Any]:
    return [(97,), *[0.005, (97,)] * 2000]


def silent(_: Any) -> list[Any]:
    return [60.0, (97,)]


async def visit(
    app: FastAPI,
    body: dict[str, Any],
    leaves: Callable[[Spoken], bool],
    *,
    stalls: bool = False,
) -> Spoken:
    """One request straight over ASGI by a client that leaves once `leaves(messages)`."""
    messages: Spoken = []
    news = asyncio.Event()
    unread = True

    async def receive() -> dict[str, Any]:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": json.dumps(body).encode()}
        while not leaves(messages):
            news.clear()
            await news.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)
        news.set()
        if stalls and message["type"] == "http.response.body":
            await asyncio.sleep(60)

    headers = [(b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "headers": headers,
        "query_string": b"",
        "path": "/v1/chat/completions",
        "asgi": {"spec_version": "2.3"},
        "http_version": "1.1",
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "scheme": "http",
    }

    async def poke() -> None:
        while True:
            await asyncio.sleep(0.01)
            news.set()

    poking = asyncio.ensure_future(poke())
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    poking.cancel()
    return messages


def ask(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "x"}], **more}


def check_all_given_back(app: FastAPI, backend: FakeBackend, requests: int) -> None:
    assert (backend.open, backend.cancelled, backend.finished) == (0, requests, 0)
    gate = app.state.server.gate
    assert (gate.answers, gate.waiting, gate.held_bytes) == (0, 0, 0)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_leaving_before_the_first_token(
    backend: FakeBackend, text: FakeText, stream: bool, n: int
) -> None:
    backend.script = silent
    app = create_app(backend, text)
    messages = asyncio.run(visit(app, ask(stream=stream, n=n), lambda _: backend.open == n))
    assert messages[0]["status"] == 499
    check_all_given_back(app, backend, n)


@pytest.mark.parametrize("n", [1, 3])
def test_leaving_in_the_middle_of_a_stream(backend: FakeBackend, text: FakeText, n: int) -> None:
    backend.script = endless
    app = create_app(backend, text)
    messages = asyncio.run(visit(app, ask(stream=True, n=n), lambda said: len(said) > 4 * n))
    assert messages[0]["status"] == 200
    check_all_given_back(app, backend, n)
    assert backend.completed == []
    assert 'silva_answers_total{end="cancelled"}' in app.state.server.metrics.exposition().decode()


def test_not_reading_a_stream(backend: FakeBackend, text: FakeText) -> None:
    backend.script = endless
    app = create_app(backend, text, ApiSettings(send_timeout_s=0.1))
    asyncio.run(visit(app, ask(stream=True), lambda _: False, stalls=True))
    check_all_given_back(app, backend, 1)


def test_one_failing_answer_ends_the_others(backend: FakeBackend, text: FakeText) -> None:
    backend.script = lambda request: (
        [lambda: backend.open == 3, RuntimeError("x")]
        if request.id.endswith(".1")
        else silent(request)
    )
    app = create_app(backend, text)
    messages = asyncio.run(visit(app, ask(n=3), lambda _: False))
    assert messages[0]["status"] == 500
    check_all_given_back(app, backend, 2)


def test_a_stop_string_ends_the_request_at_the_backend(
    backend: FakeBackend, text: FakeText
) -> None:
    backend.script = lambda _: [(65,), (66,), (67,), *endless(_), (EOS,)]
    app = create_app(backend, text)
    messages = asyncio.run(visit(app, ask(stop=["BC"]), lambda _: False))
    choice = json.loads(messages[1]["body"])["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("A", "stop")
    check_all_given_back(app, backend, 1)
    assert backend.completed == [request.id for request in backend.requests]


def test_over_a_socket(start: Callable[..., Running], backend: FakeBackend) -> None:
    backend.script = endless
    url = f"{start().url}/v1/chat/completions"
    with httpx.Client(timeout=10) as http, http.stream("POST", url, json=ask(stream=True)) as s:
        lines = s.iter_lines()
        while '"a"' not in next(lines):  # the first line comes before anything is computed
            pass
        assert backend.open == 1
    for _ in range(2000):
        if not backend.open:
            break
        asyncio.run(asyncio.sleep(0.01))
    assert (backend.open, backend.cancelled) == (0, 1)
