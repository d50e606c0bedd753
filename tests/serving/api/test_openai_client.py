"""The openai client, unmodified, against the API on a socket."""

from __future__ import annotations

import asyncio

import openai
import pytest
from api_fakes import CLIENT, CONTEXT, EOS, MODEL, FakeBackend, spoken
from openai import OpenAI
from pydantic import BaseModel

from silva.errors import HelperError
from silva.serving.backend import BusyError, UnavailableError, UnservableError

USER = [{"role": "user", "content": "Hi"}]


def test_models(client: OpenAI) -> None:
    base, leaf = client.models.list().data
    assert (base.id, leaf.id) == (MODEL, CLIENT)
    assert leaf.model_dump()["parent"] == leaf.model_dump()["root"] == MODEL
    assert base.model_dump()["max_model_len"] == CONTEXT
    assert client.models.retrieve(CLIENT).created == leaf.created


def test_a_chat(client: OpenAI, backend: FakeBackend) -> None:
    backend.cached_tokens = 3
    answer = client.chat.completions.create(model=CLIENT, messages=USER, max_tokens=50)
    choice = answer.choices[0]
    assert choice.message.content == backend.answer
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(backend.answer) + 1
    assert answer.usage.prompt_tokens == len(backend.requests[0].prompt)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert backend.requests[0].path == ("ab" * 32,)
    assert answer.model == CLIENT


def test_a_chat_streamed(client: OpenAI, backend: FakeBackend) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=USER, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == backend.answer
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(backend.answer) + 1
    assert len({c.id for c in chunks}) == 1


def test_several_choices_have_different_seeds(client: OpenAI, backend: FakeBackend) -> None:
    backend.script = lambda request: spoken(f"seed {request.sampling.seed}")
    answer = client.chat.completions.create(model=MODEL, messages=USER, n=3, seed=7)
    assert [c.message.content for c in answer.choices] == ["seed 7", "seed 8", "seed 9"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(backend.requests[0].prompt)
    chunks = client.chat.completions.create(model=MODEL, messages=USER, n=3, seed=7, stream=True)
    texts = {0: "", 1: "", 2: ""}
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(texts.values()) == ["seed 7", "seed 8", "seed 9"]


def test_without_a_seed_answers_differ(client: OpenAI, backend: FakeBackend) -> None:
    for _ in range(2):
        client.completions.create(model=MODEL, prompt="x")
    assert backend.requests[0].sampling.seed != backend.requests[1].sampling.seed


def test_chat_logprobs(client: OpenAI, backend: FakeBackend) -> None:
    backend.answer = "aé"
    answer = client.chat.completions.create(
        model=MODEL, messages=USER, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    entries = answer.choices[0].logprobs.content
    assert entries is not None
    assert [e.token for e in entries] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
    assert [e.bytes for e in entries] == [[97], [0xC3], [0xA9]]
    assert [t.token for t in entries[0].top_logprobs] == ["a", "b"]
    assert entries[0].logprob == -0.5


def test_streamed_logprobs_are_those_of_the_whole(client: OpenAI, backend: FakeBackend) -> None:
    backend.answer = "aéb, stop here"
    asked = {"model": MODEL, "messages": USER, "logprobs": True, "top_logprobs": 1, "stop": "stop"}
    whole = client.chat.completions.create(**asked)  # type: ignore[call-overload]
    entries = []
    for chunk in client.chat.completions.create(**asked, stream=True):  # type: ignore[call-overload]
        if chunk.choices[0].logprobs:
            entries += chunk.choices[0].logprobs.content
    assert [e.token for e in entries] == [e.token for e in whole.choices[0].logprobs.content]
    assert "".join(bytes(b for e in entries for b in e.bytes).decode()) == "aéb, "


def test_completions_of_every_kind_of_prompt(client: OpenAI, backend: FakeBackend) -> None:
    for prompt, tokens in [
        ("hi", [[256, 104, 105]]),
        (["a", "bc"], [[256, 97], [256, 98, 99]]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ]:
        backend.requests.clear()
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=30)
        assert [list(r.prompt) for r in backend.requests] == tokens
        assert [c.text for c in answer.choices] == [backend.answer] * len(tokens)
        assert [c.index for c in answer.choices] == list(range(len(tokens)))


def test_completion_logprobs_and_token_ids(client: OpenAI, backend: FakeBackend) -> None:
    backend.answer = "abc"
    answer = client.completions.create(
        model=MODEL, prompt=[5, 6], logprobs=1, extra_body={"return_token_ids": True}
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", "c"]
    assert choice.logprobs.text_offset == [0, 1, 2]
    assert choice.logprobs.token_logprobs == [-0.5] * 3
    assert choice.logprobs.top_logprobs == [{"a": -0.5}, {"b": -0.5}, {"c": -0.5}]
    dumped = choice.model_dump()
    assert dumped["token_ids"] == [97, 98, 99, EOS]
    assert dumped["prompt_token_ids"] == [5, 6]


def test_length(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="x", max_tokens=5)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hello", "length")


def test_the_rest_of_the_context_is_the_most(client: OpenAI, backend: FakeBackend) -> None:
    client.chat.completions.create(model=MODEL, messages=USER)
    client.chat.completions.create(model=MODEL, messages=USER, max_completion_tokens=9999)
    for request in backend.requests:
        assert request.sampling.max_tokens == CONTEXT - len(request.prompt)


def test_a_schema_from_a_pydantic_model(client: OpenAI, backend: FakeBackend) -> None:
    class City(BaseModel):
        name: str
        people: int

    backend.answer = '{"name": "Bern", "people": 134591}'
    answer = client.chat.completions.parse(model=MODEL, messages=USER, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Bern", people=134591)
    assert '"people"' in backend.requests[0].sampling.grammar


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BusyError("full", retry_after_s=2.5), openai.RateLimitError),
        (UnservableError("larger than the pool"), openai.BadRequestError),
        (UnavailableError("no peer"), openai.InternalServerError),
        (HelperError("the process for chat templates ended"), openai.InternalServerError),
        (RuntimeError("secret"), openai.InternalServerError),
    ],
)
def test_errors_before_the_first_token(
    client: OpenAI,
    backend: FakeBackend,
    error: Exception,
    expected: type[openai.APIStatusError],
    stream: bool,
) -> None:
    backend.script = lambda _: [error]
    with pytest.raises(expected) as caught:
        client.chat.completions.create(model=MODEL, messages=USER, stream=stream)  # type: ignore[call-overload]
    assert "secret" not in str(caught.value)
    if isinstance(error, BusyError):
        assert caught.value.response.headers["retry-after"] == "3"
    if isinstance(error, UnavailableError | HelperError):
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"


def test_an_error_in_a_stream(client: OpenAI, backend: FakeBackend) -> None:
    backend.script = lambda _: [(104,), (105,), UnavailableError("all peers died")]
    chunks = client.chat.completions.create(model=MODEL, messages=USER, stream=True)
    texts = [next(chunks).choices[0].delta.content for _ in range(3)]
    assert texts == ["", "h", "i"]
    with pytest.raises(openai.APIError, match="all peers died"):
        next(chunks)


def test_an_answer_that_breaks_off_is_an_error(client: OpenAI, backend: FakeBackend) -> None:
    backend.script = lambda _: [(104,)]
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=MODEL, messages=USER)


def test_unknown_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="other", messages=USER)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tiny@../../secret")


def test_a_prompt_beyond_the_context_names_both_numbers(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[1] * (CONTEXT + 88))
    assert caught.value.code == "context_length_exceeded"
    assert str(CONTEXT) in str(caught.value) and str(CONTEXT + 88) in str(caught.value)


def test_the_asynchronous_client(url: str, backend: FakeBackend) -> None:
    assert asyncio.run(_streamed(url)) == backend.answer


async def _streamed(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=USER, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])
