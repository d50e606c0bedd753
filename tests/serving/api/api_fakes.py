"""A backend that says what a test wrote down, and a text model whose tokens are bytes."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from silva.control.admission import Admission
from silva.control.request import Output, Phases, Request, TokenLogprob
from silva.control.slo import Trade
from silva.errors import ModelError
from silva.serving.backend import (
    CacheStatus,
    ChangeRefusedError,
    ModelCard,
    PeerStatus,
    PoolStatus,
    Status,
    UnknownPeerError,
)

BOS, EOS = 256, 257
ADMISSION = Admission(
    0.03, 12, 0.028, 200.0, (Trade(0.0, 64, 0.09, 711.0, 0), Trade(0.03, 12, 0.0295, 407.0, 8))
)
WORDS = (" the", "<tool_call>", "</tool_call>", "\n\n")
"""Tokens of several bytes, from 258 on."""
VOCABULARY = 258 + len(WORDS)

MODEL, CLIENT = "tiny", "tiny@c-17"
CONTEXT = 2048


class FakeDecoder:
    """UTF-8, bytes of incomplete characters held back."""

    def __init__(self, text: FakeText, skip_special: bool) -> None:
        self._text, self._skip = text, skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        if self._skip and token in (BOS, EOS):
            return ""
        return self._decoder.decode(self._text.token_bytes(token))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class FakeText:
    """Encodes byte by byte; the chat is a line a message."""

    vocabulary = VOCABULARY
    end_tokens = (EOS,)

    def __init__(self, chat_template: str = "messages tools <tool_call>") -> None:
        self.chat_template = chat_template
        self.rendered: list[str] = []

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return [BOS] * add_special + list(text.encode())

    def decode(self, tokens: Sequence[int], *, skip_special: bool) -> str:
        decoder = self.decoder(skip_special=skip_special)
        return "".join(map(decoder.push, tokens)) + decoder.finish()

    def decoder(self, *, skip_special: bool) -> FakeDecoder:
        return FakeDecoder(self, skip_special)

    def token_bytes(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return (b"<s>", b"</s>")[token - BOS] if token < 258 else WORDS[token - 258].encode()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        if not self.chat_template:
            raise ModelError("the model has no chat template", remedy="use /v1/completions")
        lines = [f"{m['role']}: {m['content']}" for m in messages]
        lines += [json.dumps(m["tool_calls"]) for m in messages if "tool_calls" in m]
        lines += [json.dumps(tool) for tool in tools or ()]
        lines += [f"{name}={value}" for name, value in variables.items()]
        lines += ["assistant:"] * add_generation_prompt
        self.rendered.append("\n".join(lines))
        return self.rendered[-1]


Step = tuple[int, ...] | Exception | float | Callable[[], bool]
"""One output's tokens, an error, seconds to wait, or what has to be true before it goes on."""


@dataclass
class FakeBackend:
    """Answers every request with `script`; counts what became of them."""

    answer: str = "Hello, world"
    script: Callable[[Request], Sequence[Step]] | None = None
    cached_tokens: int = 0
    is_ready: bool = True
    requests: list[Request] = field(default_factory=list)
    open: int = 0
    finished: int = 0
    cancelled: int = 0
    completed: list[str] = field(default_factory=list)
    most_open: int = 0
    verbs: list[tuple[Any, ...]] = field(default_factory=list)
    closed: list[float] = field(default_factory=list)
    cards: tuple[ModelCard, ...] = (
        ModelCard(MODEL, 1_700_000_000, CONTEXT),
        ModelCard(CLIENT, 1_700_000_001, CONTEXT, parent=MODEL, root=MODEL, path=("ab" * 32,)),
    )

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        self.requests.append(request)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async for output in self._outputs(request):
                yield output
            self.finished += 1
        except (asyncio.CancelledError, GeneratorExit):
            # Clean-up that awaits has to be possible when a client is gone.
            await asyncio.sleep(0)
            self.cancelled += 1
            raise
        finally:
            self.open -= 1

    async def _outputs(self, request: Request) -> AsyncGenerator[Output, None]:
        at = request.arrival_s
        phases = Phases(at, at + 0.001, at + 0.003, at + 0.004, at + 0.006, None)
        steps = self.script(request) if self.script else spoken(self.answer)
        left = request.sampling.max_tokens
        for step in steps:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                while not step():
                    await asyncio.sleep(0.005)
                continue
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            await asyncio.sleep(0)
            tokens = step[:left]
            left -= len(tokens)
            ends = bool(tokens) and tokens[-1] in request.sampling.stop_token_ids
            finish = "stop" if ends else None if left else "length"
            logprobs = tuple(logprob(t, request.sampling.logprobs) for t in tokens)
            yield Output(
                request.id,
                tokens,
                logprobs if request.sampling.logprobs is not None else (),
                finish,  # type: ignore[arg-type]
                self.cached_tokens,
                phases,
            )
            if finish:
                return

    def complete(self, request: str) -> None:
        self.completed.append(request)

    def models(self) -> Sequence[ModelCard]:
        return self.cards

    def model(self, name: str) -> ModelCard | None:
        return next((card for card in self.cards if card.id == name), None)

    def offer(self, cards: Sequence[ModelCard]) -> None:
        self.cards = tuple(cards)

    def status(self) -> Status:
        return Status(
            peers=(PeerStatus("prefill-1", "prefill", 11, "ready", queue=2, running=1),),
            pools={
                "prefill": PoolStatus(1, 1, 2, 1, 7, 8),
                "decode": PoolStatus(1, 1, admission=ADMISSION),
            },
            cache=CacheStatus(objects=5, hits=3, misses=2),
            counters={"retries": 4},
        )

    def ready(self) -> bool:
        return self.is_ready

    async def scale(self, roles: Mapping[str, int]) -> None:
        if roles.get("decode") == 0:
            raise ChangeRefusedError("nobody would decode", remedy="keep one")
        self.verbs.append(("scale", dict(roles)))

    async def drain(self, peer: str) -> None:
        if peer != "prefill-1":
            raise UnknownPeerError(f"no peer {peer}")
        self.verbs.append(("drain", peer))

    async def switch(self, peer: str, role: str) -> None:
        self.verbs.append(("switch", peer, role))

    async def close(self, grace_s: float) -> None:
        self.closed.append(grace_s)


def spoken(answer: str, *, ends: bool = True) -> list[Step]:
    """A token a byte, and the end token."""
    return [*((byte,) for byte in answer.encode()), *([(EOS,)] if ends else [])]


def logprob(token: int, alternatives: int | None) -> TokenLogprob:
    top = tuple(((token + i) % 256, -0.5 - i) for i in range(alternatives or 0))
    return TokenLogprob(-0.5, top)
