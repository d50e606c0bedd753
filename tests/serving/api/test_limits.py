"""What is refused when too much comes at once, and that refusing costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from api_fakes import MODEL, FakeBackend, FakeText, spoken
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from silva.serving.api.app import create_app
from silva.serving.api.gate import Gate
from silva.serving.api.keys import KeyRing, parse_key
from silva.serving.api.settings import ApiSettings
from silva.serving.backend import BusyError, UnavailableError

BODY = {"model": MODEL, "prompt": "x"}


async def together(
    app: FastAPI, bodies: list[dict[str, Any]], secrets: list[str] | None = None
) -> list[httpx.Response]:
    """All bodies posted at once."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://x"
    ) as client:
        return await asyncio.gather(
            *(
                client.post(
                    "/v1/completions",
                    json=body,
                    headers={"authorization": f"Bearer {secrets[index] if secrets else ''}"},
                )
                for index, body in enumerate(bodies)
            )
        )


def refused(app: FastAPI, count: int) -> Callable[[], bool]:
    """Whether so many have been turned away: until then, nobody is to leave."""
    return lambda: app.state.server.gate.refused >= count


def test_too_many_at_once(backend: FakeBackend, text: FakeText) -> None:
    app = create_app(backend, text, ApiSettings(max_answers=10, max_waiting=8))
    backend.script = lambda _: [refused(app, 292), *spoken("ok")]
    answers = asyncio.run(together(app, [BODY] * 300))
    statuses = [a.status_code for a in answers]
    assert statuses.count(200) == 8
    assert statuses.count(429) == 292
    one = next(a for a in answers if a.status_code == 429)
    assert 1 <= int(one.headers["retry-after"]) <= 60
    assert one.json()["error"]["code"] == "rate_limit_exceeded"
    assert backend.most_open == 8
    # What was refused is forgotten: the next one is let in.
    assert asyncio.run(together(app, [BODY]))[0].status_code == 200


def test_choices_count_as_answers(backend: FakeBackend, text: FakeText) -> None:
    app = create_app(backend, text, ApiSettings(max_answers=5))
    backend.script = lambda _: [refused(app, 1), *spoken("ok")]
    refusal, served = asyncio.run(together(app, [{**BODY, "n": 3}] * 2))
    assert sorted([refusal.status_code, served.status_code]) == [200, 429]
    gate = app.state.server.gate
    assert (gate.answers, gate.waiting, gate.held_bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    "settings",
    [
        ApiSettings(max_answers=5),
        ApiSettings(max_waiting=5),
        ApiSettings(max_answers_per_key=5),
    ],
)
def test_what_never_fits_is_not_told_to_come_again(
    backend: FakeBackend, text: FakeText, settings: ApiSettings
) -> None:
    app = create_app(backend, text, settings)
    bodies = [{**BODY, "prompt": ["x"] * 2, "n": 3}, {**BODY, "n": 5}]
    refusal, served = (asyncio.run(together(app, [body]))[0] for body in bodies)
    assert (refusal.status_code, served.status_code) == (400, 200)
    assert "retry-after" not in refusal.headers
    error = refusal.json()["error"]
    assert (error["code"], error["param"]) == ("too_many_answers", "n")
    assert "6 answers" in error["message"]
    assert "takes 5" in error["message"]


def test_a_body_larger_than_all_together_may_be(backend: FakeBackend, text: FakeText) -> None:
    app = create_app(backend, text, ApiSettings(max_held_bytes=5000))
    refusal = asyncio.run(together(app, [{**BODY, "user": "x" * 6000}]))[0]
    assert refusal.status_code == 413
    assert "5000" in refusal.json()["error"]["message"]


def test_one_key_cannot_take_all(backend: FakeBackend, text: FakeText) -> None:
    keys = KeyRing([parse_key("a=secret-one"), parse_key("b=secret-two")])
    app = create_app(backend, text, ApiSettings(max_answers_per_key=2), keys=keys)
    backend.script = lambda _: [refused(app, 2), *spoken("ok")]
    secrets = ["secret-one"] * 4 + ["secret-two"] * 2
    statuses = [a.status_code for a in asyncio.run(together(app, [BODY] * 6, secrets))]
    assert statuses == [200, 200, 429, 429, 200, 200]


def test_large_bodies_together(backend: FakeBackend, text: FakeText) -> None:
    app = create_app(backend, text, ApiSettings(max_held_bytes=5000))
    backend.script = lambda _: [refused(app, 3), *spoken("ok")]
    large = {**BODY, "user": "x" * 2000}
    statuses = [a.status_code for a in asyncio.run(together(app, [large] * 5))]
    assert sorted(statuses) == [200, 200, 429, 429, 429]
    assert app.state.server.gate.held_bytes == 0


def test_a_prompt_limit_below_the_context(backend: FakeBackend, text: FakeText) -> None:
    app = create_app(backend, text, ApiSettings(max_prompt_tokens=10))
    served, refusal = asyncio.run(
        together(app, [{**BODY, "prompt": [1] * 10}, {**BODY, "prompt": [1] * 11}])
    )
    assert (served.status_code, refusal.status_code) == (200, 400)
    assert "10" in refusal.json()["error"]["message"]
    assert "11" in refusal.json()["error"]["message"]


def test_a_closed_gate(backend: FakeBackend, text: FakeText) -> None:
    app = create_app(backend, text)
    app.state.server.gate.close()
    answer = asyncio.run(together(app, [BODY]))[0]
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


@given(st.lists(st.tuples(st.sampled_from("abw"), st.integers(1, 4)), max_size=40))
def test_the_gate_counts_right(moves: list[tuple[str, int]]) -> None:
    """a, b: enter with this key and widen; w: the n-th ticket starts and leaves."""
    settings = ApiSettings(max_answers=9, max_waiting=6, max_answers_per_key=5)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.1
        return now

    gate, tickets = Gate(settings, clock), []
    for key, number in moves:
        if key == "w":
            for ticket in tickets[:number]:
                ticket.started()
                ticket.close()
                ticket.close()
            del tickets[:number]
            continue
        ticket = None
        try:
            ticket = gate.enter(key)
            ticket.widen(number)
        except BusyError as error:
            assert 1 <= error.retry_after_s <= 60
            if ticket is not None:
                ticket.close()
        else:
            tickets.append(ticket)
        assert gate.answers == sum(t.answers for t in tickets) <= 9
        assert gate.waiting == sum(t.waiting for t in tickets) <= 6
    for ticket in tickets:
        ticket.close()
    assert (gate.answers, gate.waiting) == (0, 0)
    asyncio.run(gate.empty())
    gate.close()
    with pytest.raises(UnavailableError):
        gate.enter("a")
