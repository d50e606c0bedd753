from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from bench_server import EXTRAS, PLAIN, Running, Script

from silva.config import build, overlay
from silva.errors import ConfigError, ServingError
from silva.serving.bench.body import Bodies
from silva.serving.bench.client import Client, open_client
from silva.serving.bench.config import BenchConfig, settled
from silva.serving.bench.load import WallTimer
from silva.serving.bench.nouns import UNFINISHED, Dialect, Outcome, Planned

FULL = Dialect(tokens=True, usage=True, ignore_eos=True, token_ids=True)
Start = Callable[..., Running]


def config(url: str, **flags: Any) -> BenchConfig:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return settled(build(BenchConfig, overlay({"url": url}, named), "test"))


def asked(
    url: str,
    *,
    dialect: Dialect = FULL,
    planned: Planned | None = None,
    keys: tuple[str, ...] = ("",),
    **flags: Any,
) -> Outcome:
    """One request, and what came of it."""
    planned = planned or Planned(0, 0.0, 12, 5)
    settings = config(url, **flags)

    async def whole() -> Outcome:
        async with open_client(settings, keys, WallTimer().now_s) as client:
            outcome = Outcome(planned, client.clock())
            await client.send(Bodies(settings, "fake", dialect).encode(planned), outcome)
            return outcome

    return asyncio.run(whole())


def test_an_answer_is_timed_token_by_token(start: Start) -> None:
    server = start(script=lambda n: Script(first_s=0.01, gap_s=0.01, cached=8))
    found = asked(server.url)
    assert found.good and len(found.tokens_s) == 5 == found.output_tokens
    moments = [found.started_s, *found.tokens_s, found.finished_s]
    assert moments == sorted(moments) and len(set(found.tokens_s)) == 5
    assert (found.prompt_tokens, found.completion_tokens, found.cached_tokens) == (12, 5, 8)
    assert found.ttft_s is not None and found.tpot_s is not None and found.message == ""


def test_what_is_sent_is_the_plan(start: Start) -> None:
    server = start()
    asked(server.url, planned=Planned(4, 0.0, 30, 7))
    (body,) = server.fake.bodies
    assert len(body["prompt"]) == 30 and all(20 <= token < 500 for token in body["prompt"])
    assert body == {
        "model": "fake",
        "prompt": body["prompt"],
        "max_tokens": 7,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "return_token_ids": True,
    }


def test_words_for_a_server_that_takes_text(start: Start) -> None:
    server = start(fields=PLAIN, token_prompts=False)
    found = asked(server.url, dialect=Dialect())
    (body,) = server.fake.bodies
    assert len(body["prompt"].split()) == 12 and set(body) == PLAIN - {"messages"}
    assert found.good and len(found.tokens_s) == 5
    assert found.prompt_tokens is found.completion_tokens is found.cached_tokens is None


def test_chat_begins_with_an_event_that_is_no_token(start: Start) -> None:
    server = start(script=lambda n: Script(first_s=0.01))
    found = asked(server.url, endpoint="chat", dialect=Dialect(usage=True))
    (body,) = server.fake.bodies
    assert body["messages"][0]["role"] == "user" and "prompt" not in body
    assert found.good and len(found.tokens_s) == 5 and found.prompt_tokens == 12


@pytest.mark.parametrize("token_ids", [True, False])
def test_tokens_of_one_event_are_counted_where_the_server_says_them(
    start: Start, token_ids: bool
) -> None:
    server = start(script=lambda n: Script(tokens_per_event=2, gap_s=0.005))
    found = asked(server.url, dialect=Dialect(usage=True, token_ids=token_ids))
    assert found.output_tokens == 5 and len(found.tokens_s) == (5 if token_ids else 3)
    # The server's count decides the time of a token, however many came at once.
    assert found.tpot_s == pytest.approx((found.tokens_s[-1] - found.tokens_s[0]) / 4)


def test_the_key_of_the_plan_is_sent_and_no_other(start: Start) -> None:
    server = start(keys=("alpha", "beta"))
    for number in (1, 0):
        assert asked(server.url, keys=("alpha", "beta"), planned=Planned(0, 0, 1, 1, number)).good
    assert server.fake.callers == ["beta", "alpha"]
    refused = asked(server.url, keys=("gamma",))
    assert (refused.error, refused.message) == ("http 401", "no such key")


@pytest.mark.parametrize(
    ("script", "error", "message", "tokens"),
    [
        (Script(status=429), "http 429", "not now", 0),
        (Script(status=500), "http 500", "not now", 0),
        (Script(end="cut"), "broken off", "", 2),
        (Script(end="quiet"), "broken off", "ended before", 2),
        (Script(end="error"), "error event", "a peer died", 2),
        (Script(end="garbage"), "bad answer", "not JSON", 2),
        (Script(end="empty"), "empty answer", "without a token", 0),
        (Script(end="hang"), "timeout", "in 1 s", 2),
    ],
)
def test_errors_by_kind(
    start: Start, script: Script, error: str, message: str, tokens: int
) -> None:
    server = start(script=lambda n: script)
    found = asked(server.url, timeout_s=1.0 if error == "timeout" else 60.0)
    assert found.error == error and message in found.message
    assert len(found.tokens_s) <= tokens and not found.good
    assert found.finished_s >= found.started_s


def test_where_nobody_listens(start: Start) -> None:
    server = start()
    server.stop()
    assert asked(server.url).error == "connection"


def test_a_cancelled_request_stays_unfinished_and_the_server_notices(start: Start) -> None:
    server = start(script=lambda n: Script(end="hang"))
    settings = config(server.url)

    async def whole() -> Outcome:
        async with open_client(settings, ("",), WallTimer().now_s) as client:
            outcome = Outcome(Planned(0, 0.0, 3, 9), 0.0)
            body = Bodies(settings, "fake", FULL).encode(outcome.planned)
            task = asyncio.create_task(client.send(body, outcome))
            while len(outcome.tokens_s) < 2:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return outcome

    outcome = asyncio.run(whole())
    assert outcome.error == UNFINISHED and outcome.finished_s >= outcome.tokens_s[-1]


def learnt(server: Running, keys: tuple[str, ...] = ("",), **flags: Any) -> tuple[str, Dialect]:
    async def whole(client: Client) -> tuple[str, Dialect]:
        model = await client.first_model()
        return model, await client.learn_dialect(model)

    async def opened() -> tuple[str, Dialect]:
        async with open_client(config(server.url, **flags), keys, WallTimer().now_s) as client:
            return await whole(client)

    return asyncio.run(opened())


def test_a_server_that_takes_everything_is_asked_once(start: Start) -> None:
    server = start()
    assert learnt(server) == ("fake", FULL)
    assert len(server.fake.bodies) == 1


@pytest.mark.parametrize("unknown", sorted(EXTRAS))
def test_a_part_that_is_refused_costs_no_other(start: Start, unknown: str) -> None:
    server = start(fields=(PLAIN | EXTRAS) - {unknown})
    _, found = learnt(server)
    assert found == Dialect(
        tokens=True,
        usage=unknown != "stream_options",
        ignore_eos=unknown != "ignore_eos",
        token_ids=unknown != "return_token_ids",
    )


def test_a_plain_server_gets_plain_requests(start: Start) -> None:
    assert learnt(start(fields=PLAIN, token_prompts=False))[1] == Dialect()


def test_settings_narrow_the_dialect(start: Start) -> None:
    server = start()
    assert not learnt(server, prompts="text")[1].tokens
    assert not learnt(server, endpoint="chat")[1].tokens
    assert not learnt(server, ignore_eos=False)[1].ignore_eos
    with pytest.raises(ServingError, match="must be text"):
        learnt(start(token_prompts=False), prompts="tokens")


@pytest.mark.parametrize(
    ("fake", "what"),
    [
        ({"keys": ("alpha",)}, "lists no models .status 401"),
        ({"models": ()}, "lists no models"),
        ({"script": lambda n: Script(status=503)}, "refuses to answer: http 503: not now"),
        ({"script": lambda n: Script(end="error", status=200)}, "error event: a peer died"),
    ],
)
def test_a_server_that_cannot_be_measured(start: Start, fake: dict[str, Any], what: str) -> None:
    with pytest.raises(ServingError, match=what):
        learnt(start(**fake))


def test_a_token_without_a_letter_is_an_answer(start: Start) -> None:
    assert learnt(start(script=lambda n: Script(end="empty")))[1] == FULL


def test_where_no_server_is_the_error_says_so(start: Start) -> None:
    server = start()
    server.stop()
    with pytest.raises(ServingError, match="no server answers"):
        learnt(server)
    with pytest.raises(ConfigError, match="no URL"):
        asked("http://host:port")
