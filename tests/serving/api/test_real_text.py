"""The API with the models' own text layer: tokenizer, decoder and a sandboxed chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from api_fakes import MODEL, FakeBackend, Step
from api_transport import Api
from tokenizers import Tokenizer as Library
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from silva.control.request import Request
from silva.models.chat import ChatTemplate
from silva.models.text import LanguageText
from silva.models.tokenizer import Tokenizer
from silva.serving.api.app import create_app

TEMPLATE = (
    "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' and not m.content %}{{ raise_exception('an empty question') }}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def real() -> Iterator[LanguageText]:
    library = Library(BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    library.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(["the quick brown fox, the lazy dog"] * 3, trainer)
    tokenizer = Tokenizer(library.to_str().encode())
    text = LanguageText(
        tokenizer, ChatTemplate(TEMPLATE, {}), vocabulary=tokenizer.vocabulary, end_tokens=(1,)
    )
    yield text
    text.close()


def test_a_chat_there_and_back(real: LanguageText, backend: FakeBackend) -> None:
    answer = "the 👩‍👩‍👧 café <|im_start|>"

    def says(_: Request) -> list[Step]:
        return [(token,) for token in (*real.encode(answer, add_special=False), 1)]

    backend.script = says
    api = Api(create_app(backend, real))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "naïve?"}]}
    whole = api.post("/v1/chat/completions", json={**body, "logprobs": True}).json()
    assert whole["choices"][0]["message"]["content"] == "the 👩‍👩‍👧 café "
    assert whole["choices"][0]["finish_reason"] == "stop"
    entries = whole["choices"][0]["logprobs"]["content"]
    assert bytes(b for e in entries for b in e["bytes"]).decode() == answer
    streamed = api.post("/v1/chat/completions", json={**body, "stream": True}).text
    chunks = [json.loads(x[6:]) for x in streamed.splitlines() if x.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == (
        "the 👩‍👩‍👧 café "
    )
    prompt = real.decode(backend.requests[0].prompt, skip_special=False)
    assert prompt == "<|im_start|>user\nnaïve?<|im_end|>\n<|im_start|>assistant\n"


def test_what_the_template_refuses(real: LanguageText, backend: FakeBackend) -> None:
    api = Api(create_app(backend, real))
    body = {"model": MODEL, "messages": [{"role": "user", "content": ""}]}
    answer = api.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "an empty question" in answer.json()["error"]["message"]


def test_tools_reach_the_template(real: LanguageText, backend: FakeBackend) -> None:
    api = Api(create_app(backend, real))
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": "function", "function": {"name": "now"}}],
    }
    tokens = api.post("/tokenize", json=body).json()["tokens"]
    text = api.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert text.startswith('TOOLS [{"type": "function", "function": {"name": "now"}}]')
