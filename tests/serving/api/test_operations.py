"""What operators see: status and verbs, probes, metrics, ids, timings; and texts as tokens."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest
from api_fakes import BOS, CONTEXT, EOS, MODEL, FakeBackend, FakeText
from api_transport import Api

from silva.serving.api.app import create_app
from silva.serving.api.ids import RequestIdFilter, current, request_id
from silva.serving.api.text import TextThreads

BODY = {"model": MODEL, "prompt": "x"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def api(backend: FakeBackend, text: FakeText) -> Api:
    return Api(create_app(backend, text))


def test_status(api: Api) -> None:
    status = api.get("/admin/v1/status").json()
    assert status["version"] == 1
    assert status["peers"][0]["name"] == "prefill-1"
    assert status["pools"]["prefill"]["blocks_free"] == 7
    assert status["cache"]["hits"] == 3
    assert status["counters"] == {"retries": 4}


def test_verbs(api: Api, backend: FakeBackend) -> None:
    for verb, body in [
        ("scale", {"roles": {"prefill": 2, "decode": 1}}),
        ("drain", {"peer": "prefill-1"}),
        ("switch", {"peer": "prefill-1", "role": "decode"}),
    ]:
        answer = api.post(f"/admin/v1/{verb}", json=body)
        assert answer.status_code == 200
        assert "peers" in answer.json()
    assert backend.verbs == [
        ("scale", {"prefill": 2, "decode": 1}),
        ("drain", "prefill-1"),
        ("switch", "prefill-1", "decode"),
    ]


@pytest.mark.parametrize(
    ("verb", "body", "status"),
    [
        ("scale", {"roles": {"decode": 0}}, 409),
        ("scale", {"roles": {"decode": -1}}, 400),
        ("scale", {"roles": {}}, 400),
        ("drain", {"peer": "nobody"}, 404),
        ("drain", {}, 400),
        ("switch", {"peer": "prefill-1"}, 400),
    ],
)
def test_verbs_that_are_refused(api: Api, verb: str, body: dict[str, Any], status: int) -> None:
    answer = api.post(f"/admin/v1/{verb}", json=body)
    assert answer.status_code == status
    assert "message" in answer.json()["error"]


def test_health_is_apart_from_ready(api: Api, backend: FakeBackend) -> None:
    assert api.get("/ready").status_code == 200
    backend.is_ready = False
    assert (api.get("/health").status_code, api.get("/ready").status_code) == (200, 503)


def samples(api: Api) -> dict[str, float]:
    lines = api.get("/metrics").text.splitlines()
    return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def test_metrics(api: Api, backend: FakeBackend) -> None:
    backend.cached_tokens = 1
    tokens = len(backend.answer) + 1
    assert api.post("/v1/completions", json={**BODY, "max_tokens": 99}).status_code == 200
    assert api.post("/v1/completions", json={**BODY, "model": "no"}).status_code == 404
    found = samples(api)
    for phase in ("queue", "prefill", "transfer", "first_decode", "time_to_first_token", "answer"):
        assert found[f"silva_{phase}_seconds_count"] == 1
    assert found["silva_prefill_seconds_sum"] == pytest.approx(0.002)
    assert found["silva_inter_token_seconds_count"] == tokens - 1
    assert found["silva_prompt_tokens_total"] == 2
    assert found["silva_cached_prompt_tokens_total"] == 1
    assert found["silva_generated_tokens_total"] == tokens
    assert found['silva_answers_total{end="stop"}'] == 1
    assert found['silva_http_requests_total{path="/v1/completions",status="200"}'] == 1
    assert found['silva_http_requests_total{path="/v1/completions",status="404"}'] == 1
    assert found['silva_peers{role="prefill",state="ready"}'] == 1
    assert found['silva_pool_queue{role="prefill"}'] == 2
    assert found['silva_tpot_target_seconds{role="decode"}'] == 0.03
    assert found['silva_tpot_seconds{role="decode"}'] == 0.028
    assert found['silva_batch_admitted{role="decode"}'] == 12
    assert found['silva_trade_batch{role="decode",target_seconds="0"}'] == 64
    assert found['silva_trade_tokens_per_second{role="decode",target_seconds="0.03"}'] == 407
    assert 'silva_batch_admitted{role="prefill"}' not in found
    assert found["silva_backend_retries_total"] == 4
    assert found["silva_answers_open"] == 0
    assert found["silva_ready"] == 1


def test_paths_that_are_asked_do_not_become_series(api: Api) -> None:
    for path in ("/a", "/b", "/v1/models/x", "/v1/models/y"):
        api.get(path)
    counted = [name for name in samples(api) if name.startswith("silva_http_requests_total")]
    assert len(counted) == 2


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-request-id": "order-17.a_B"}, "order-17.a_B"),
        ({"traceparent": TRACEPARENT}, TRACE),
        ({"traceparent": TRACEPARENT, "x-request-id": "mine"}, "mine"),
        ({"x-request-id": "a\tb"}, "req-[0-9a-f]{16}"),
        ({"x-request-id": "x" * 65}, "req-[0-9a-f]{16}"),
        ({"x-request-id": "../../x"}, "req-[0-9a-f]{16}"),
        ({"traceparent": TRACEPARENT.replace(TRACE, "0" * 32)}, "req-[0-9a-f]{16}"),
        ({"traceparent": f"ff{TRACEPARENT[2:]}"}, "req-[0-9a-f]{16}"),
        ({"traceparent": "garbage"}, "req-[0-9a-f]{16}"),
        ({}, "req-[0-9a-f]{16}"),
    ],
)
def test_request_ids(
    api: Api, backend: FakeBackend, headers: dict[str, str], expected: str
) -> None:
    answer = api.post("/v1/completions", json={**BODY, "n": 2}, headers=headers)
    shown = answer.headers["x-request-id"]
    assert re.fullmatch(expected, shown)
    ids = [request.id for request in backend.requests]
    assert len(set(ids)) == 2
    assert all(i.startswith(f"{shown}:") for i in ids)
    if headers.get("traceparent") == TRACEPARENT:
        assert all(i.count(TRACE) == 1 for i in ids)


def test_an_id_used_twice_is_two_requests(api: Api, backend: FakeBackend) -> None:
    for _ in range(2):
        api.post("/v1/completions", json=BODY, headers={"x-request-id": "same"})
    assert len({request.id for request in backend.requests}) == 2


def test_errors_have_an_id_too(api: Api) -> None:
    answer = api.post("/v1/completions", content=b"{", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (400, "mine")


def test_work_beside_the_loop_knows_the_request() -> None:
    threads, found = TextThreads(), request_id({"x-request-id": "mine"})

    async def scene() -> None:
        current.set(found)
        assert await threads.beside(current.get) is found

    asyncio.run(scene())
    threads.close()


def test_log_records_carry_the_id() -> None:
    record = logging.LogRecord("silva", logging.INFO, "", 1, "text", (), None)
    assert RequestIdFilter().filter(record)
    assert (record.request_id, record.trace_id) == ("-", "-")  # type: ignore[attr-defined]
    token = current.set(request_id({"traceparent": TRACEPARENT, "x-request-id": "mine"}))
    RequestIdFilter().filter(record)
    current.reset(token)
    assert (record.request_id, record.trace_id) == ("mine", TRACE)  # type: ignore[attr-defined]


def test_the_access_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "silva.api.access"):
        api.get("/nowhere/%0aforged line")
    line = caplog.records[-1].getMessage()
    assert line.startswith("GET /nowhere/\\nforged line 404 ")


@pytest.mark.parametrize(
    ("more", "headers"), [({"timings": True}, {}), ({}, {"x-silva-timings": "1"})]
)
def test_timings(api: Api, backend: FakeBackend, more: Any, headers: dict[str, str]) -> None:
    answer = api.post("/v1/completions", json={**BODY, **more}, headers=headers).json()
    found = answer["choices"][0]["timings"]
    assert found["queue_ms"] == pytest.approx(1, abs=0.01)
    assert found["prefill_ms"] == pytest.approx(2, abs=0.01)
    assert found["transfer_ms"] == pytest.approx(1, abs=0.01)
    assert found["first_decode_ms"] == pytest.approx(2, abs=0.01)
    assert len(found["inter_token_ms"]) == len(backend.answer)
    assert 0 < found["first_token_ms"] <= found["total_ms"]


def test_timings_in_a_stream_and_none_unasked(api: Api) -> None:
    streamed = api.post("/v1/completions", json={**BODY, "stream": True, "timings": True}).text
    events = [line for line in streamed.splitlines() if '"timings"' in line]
    assert len(events) == 1
    assert '"finish_reason":"stop"' in events[0]
    assert "timings" not in api.post("/v1/completions", json=BODY).text


def test_texts_and_tokens(api: Api) -> None:
    found = api.post("/tokenize", json={"prompt": "aé"}).json()
    assert found == {"count": 4, "max_model_len": CONTEXT, "tokens": [BOS, 97, 0xC3, 0xA9]}
    body = {"prompt": "é", "add_special_tokens": False, "return_token_strs": True}
    assert api.post("/tokenize", json=body).json()["token_strs"] == ["bytes:\\xc3", "bytes:\\xa9"]
    chat = {"messages": [{"role": "user", "content": "Hi"}], "model": MODEL}
    tokens = api.post("/tokenize", json=chat).json()["tokens"]
    assert bytes(tokens) == b"user: Hi\nassistant:"
    assert api.post("/detokenize", json={"tokens": tokens}).json()["prompt"] == (
        "user: Hi\nassistant:"
    )
    special = {"tokens": [BOS, 97, EOS]}
    assert api.post("/detokenize", json=special).json() == {"prompt": "<s>a</s>"}
    skipped = {**special, "skip_special_tokens": True}
    assert api.post("/detokenize", json=skipped).json() == {"prompt": "a"}
    assert api.post("/tokenize", json={}).status_code == 400
    assert api.post("/detokenize", json={"tokens": [99999]}).status_code == 400


def test_long_texts_are_encoded_too(api: Api) -> None:
    assert api.post("/tokenize", json={"prompt": "a" * 5000}).json()["count"] == 5001


def test_sampling_fields_reach_the_backend(api: Api, backend: FakeBackend) -> None:
    body = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": -100},
        "stop_token_ids": [9],
        "seed": -1,
        "priority": 3,
        "logprobs": 0,
    }
    assert api.post("/v1/completions", json={**BODY, **body}).status_code == 200
    request = backend.requests[0]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 0)
    assert (sampling.min_p, sampling.presence_penalty) == (0.1, 1)
    assert (sampling.frequency_penalty, sampling.repetition_penalty) == (-1, 1.1)
    assert sampling.logit_bias == ((5, -100),)
    assert sampling.stop_token_ids == (EOS, 9)
    assert sampling.seed == (1 << 63) - 1
    assert (sampling.logprobs, request.priority) == (0, 3)
    api.post("/v1/completions", json={**BODY, "ignore_eos": True})
    assert backend.requests[1].sampling.stop_token_ids == ()


def test_the_description_names_the_bodies(api: Api) -> None:
    found = api.get("/openapi.json").json()
    body = found["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ChatBody"
    }
    assert "messages" in found["components"]["schemas"]["ChatBody"]["properties"]
    assert '"422"' not in api.get("/openapi.json").text
