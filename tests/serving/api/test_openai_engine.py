"""The openai client, unmodified, against the API over the real engine: a tiny model of random
weights, which says anything that it is not kept from saying.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

pytest.importorskip("transformers")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / name) for name in ("faults", "models")]

from api_server import Running  # noqa: E402
from chat_cases import QWEN_TOOLS  # noqa: E402
from serving_world import save_model, settings  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from silva.models.text import load_text  # noqa: E402
from silva.serving.api.app import create_app  # noqa: E402
from silva.serving.backend import ModelCard  # noqa: E402
from silva.serving.colocated import Colocated  # noqa: E402

MODEL, CONTEXT, BLOCK = "tiny", 1024, 16
USER = [{"role": "user", "content": "What is the weather in the city?"}]
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Bern", "Zürich"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}}
    for name in ("weather", "sunrise")
]
NAMED: Any = {"type": "function", "function": {"name": "sunrise"}}


class Stop(BaseModel):
    """One stop of a journey."""

    model_config = ConfigDict(extra="forbid")
    place: Literal["Bern", 'the "old" town']
    minutes: int = Field(ge=0, le=59)


class Journey(BaseModel):
    """What an answer has to be."""

    model_config = ConfigDict(extra="forbid")
    by_train: bool
    stops: list[Stop] = Field(min_length=1, max_length=2)
    remark: str = Field(max_length=5)


class Served(Running):
    """The API over a backend that has to be opened first."""

    async def _serve(self, sock: object) -> None:
        await self._backend.open()  # type: ignore[attr-defined]
        await super()._serve(sock)


def save_chat_model(folder: Path) -> Path:
    """A token a byte, marks of a chat, and a template that knows tools."""
    save_model(folder, context=CONTEXT)
    file = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(file))
    for name in ("config.json", "generation_config.json"):
        config = json.loads((folder / name).read_text())
        config["eos_token_id"] = tokenizer.token_to_id("<|im_end|>")
        (folder / name).write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(QWEN_TOOLS)
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = save_chat_model(tmp_path_factory.mktemp("model"))
    text = load_text(folder)
    config = settings(folder, colocated=True)
    backend: Any = Colocated(config, folder, [ModelCard(MODEL, 0, CONTEXT)])
    server = Served(create_app(backend, text), backend)
    with OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0, timeout=200) as client:
        yield client
    server.stop()
    text.close()


def ask(client: OpenAI, **more: Any) -> Any:
    given = {"model": MODEL, "messages": USER, "max_tokens": 24, "temperature": 0, **more}
    return client.chat.completions.create(**given)


def streamed(client: OpenAI, **more: Any) -> tuple[str, Any, Any]:
    """Text, last choice and usage of a stream."""
    options = {"include_usage": True}
    chunks = list(ask(client, stream=True, stream_options=options, **more))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return "".join(c.delta.content or "" for c in choices), choices[-1], chunks[-1].usage


def test_a_chat_whole_and_streamed(client: OpenAI) -> None:
    whole = ask(client)
    text, last, usage = streamed(client)
    assert text == whole.choices[0].message.content != ""
    assert last.finish_reason == whole.choices[0].finish_reason
    assert usage.completion_tokens == whole.usage.completion_tokens > 0
    assert usage.prompt_tokens == whole.usage.prompt_tokens > len(USER[0]["content"])


def test_a_completion_is_the_chat_of_the_same_prompt(client: OpenAI) -> None:
    prompt = f"<|im_start|>user\n{USER[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    said = client.completions.create(model=MODEL, prompt=prompt, max_tokens=24, temperature=0)
    assert said.choices[0].text == ask(client).choices[0].message.content


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_meets_its_schema(client: OpenAI, seed: int) -> None:
    how = {"max_tokens": 400, "temperature": 1, "seed": seed}
    parsed = client.chat.completions.parse(
        model=MODEL, messages=USER, response_format=Journey, **how
    )
    choice = parsed.choices[0]
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Journey)
    schema = {"name": "journey", "schema": Journey.model_json_schema(), "strict": True}
    text, last, _ = streamed(
        client, response_format={"type": "json_schema", "json_schema": schema}, **how
    )
    assert last.finish_reason == "stop"
    assert Journey.model_validate_json(text) == choice.message.parsed


def test_log_probabilities(client: OpenAI) -> None:
    choice = ask(client, logprobs=True, top_logprobs=4).choices[0]
    entries = choice.logprobs.content
    assert len(entries) >= 20
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 4 and tops == sorted(tops, reverse=True)
        assert 0 < sum(map(math.exp, tops)) <= 1 + 1e-6
        # greedy: the likeliest is what was said
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, tops[0])
    bytes_ = bytes(b for entry in entries for b in entry.bytes or ())
    assert bytes_.decode(errors="replace").startswith(choice.message.content[:1])
    chunks = list(ask(client, logprobs=True, top_logprobs=4, stream=True))
    parts = [c.choices[0].logprobs for c in chunks if c.choices]
    again = [entry for part in parts if part for entry in part.content]
    assert [e.token for e in again] == [e.token for e in entries]
    assert [e.logprob for e in again] == pytest.approx([e.logprob for e in entries], abs=1e-4)


def check_call(name: str, arguments: str, wanted: tuple[str, ...]) -> None:
    assert name in wanted
    given = json.loads(arguments)
    assert given["city"] in ("Bern", "Zürich")
    assert 1 <= given["days"] <= 9
    assert given.keys() == {"city", "days"}


@pytest.mark.parametrize(
    ("choice", "names"), [(NAMED, ("sunrise",)), ("required", ("weather", "sunrise"))]
)
def test_forced_calls(client: OpenAI, choice: Any, names: tuple[str, ...]) -> None:
    how = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
    how |= {"temperature": 1, "seed": 3, "max_tokens": 300}
    message = ask(client, **how).choices[0].message
    [call] = message.tool_calls
    check_call(call.function.name, call.function.arguments, names)
    deltas = [c.choices[0].delta for c in ask(client, stream=True, **how) if c.choices]
    parts = [part for delta in deltas for part in delta.tool_calls or ()]
    told = "".join(part.function.arguments or "" for part in parts)
    [name] = [part.function.name for part in parts if part.function.name]
    check_call(name, told, names)
    assert json.loads(told) == json.loads(call.function.arguments)
    turn = [message.model_dump(exclude_none=True)]
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = ask(client, messages=[*USER, *turn, result], tools=TOOLS, tool_choice="none")
    assert after.choices[0].message.content


def test_a_stop_string_ends_the_answer(client: OpenAI) -> None:
    text = ask(client, max_tokens=60).choices[0].message.content
    at = next(n for n in range(3, len(text)) if text[n].isascii() and text[n] not in text[:n])
    choice = ask(client, max_tokens=60, stop=["never said", text[at]]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (text[:at], "stop")
    said, last, _ = streamed(client, max_tokens=60, stop=[text[at]])
    assert (said, last.finish_reason) == (text[:at], "stop")


def test_a_seed_gives_the_same_answer(client: OpenAI) -> None:
    one, same, other = (
        ask(client, temperature=1, seed=seed).choices[0].message.content for seed in (5, 5, 99)
    )
    assert one == same != other


def test_two_answers(client: OpenAI) -> None:
    both = ask(client, n=2, temperature=1, seed=7, extra_body={"ignore_eos": True})
    texts = [choice.message.content for choice in both.choices]
    assert [choice.index for choice in both.choices] == [0, 1]
    assert texts[0] != texts[1]
    alone = ask(client, temperature=1, seed=7, extra_body={"ignore_eos": True})
    assert alone.choices[0].message.content == texts[0]
    assert both.usage.completion_tokens == 48
    assert both.usage.prompt_tokens == alone.usage.prompt_tokens


def test_cached_tokens_of_the_second_ask(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Something that nobody has asked before. " * 3}]
    first, again = (ask(client, messages=messages) for _ in range(2))
    whole = first.usage.prompt_tokens // BLOCK * BLOCK
    assert first.usage.prompt_tokens_details.cached_tokens < BLOCK * 2
    assert again.usage.prompt_tokens_details.cached_tokens >= whole - BLOCK
    assert again.choices[0].message.content == first.choices[0].message.content
    _, _, usage = streamed(client, messages=messages)
    assert usage.prompt_tokens_details.cached_tokens >= whole - BLOCK
