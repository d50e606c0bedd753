"""A server of OpenAI's API on a loopback port, in a thread: scripted, and all is recorded."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

PLAIN = {"model", "prompt", "messages", "max_tokens", "temperature", "stream"}
EXTRAS = {"stream_options", "ignore_eos", "return_token_ids"}


@dataclass
class Script:
    """What the server does with a request: a status other than 200, or an answer and how it ends.

    end: "done", "cut" (the connection breaks), "quiet" (ends without a word), "error" (an event
    says so), "garbage", "empty" (no token), "hang". The ends other than "done" come after two tokens.
    """

    status: int = 200
    end: str = "done"
    first_s: float = 0.0
    gap_s: float = 0.0
    tokens_per_event: int = 1
    hold: int = 0
    """Nothing comes before so many requests have."""
    cached: int | None = 0


@dataclass
class FakeOpenAI:
    """Answers with as many tokens as asked. `script` is called with the number of the request."""

    script: Callable[[int], Script] = lambda number: Script()
    fields: set[str] = field(default_factory=lambda: PLAIN | EXTRAS)
    token_prompts: bool = True
    keys: tuple[str, ...] = ()
    models: tuple[str, ...] = ("fake", "other")
    bodies: list[dict[str, Any]] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()
        app.get("/v1/models")(self._models)
        app.post("/v1/completions")(self._answer)
        app.post("/v1/chat/completions")(self._answer)
        return app

    async def _models(self, request: Request) -> Response:
        if not self._known(request):
            return _error(401, "no such key")
        return JSONResponse({"data": [{"id": name} for name in self.models]})

    def _known(self, request: Request) -> bool:
        caller = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.callers.append(caller)
        return not self.keys or caller in self.keys

    async def _answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if not self._known(request):
            return _error(401, "no such key")
        strange = sorted(set(body) - self.fields)
        if strange:
            return _error(400, f"{strange[0]}: unknown field")
        if isinstance(body.get("prompt"), list) and not self.token_prompts:
            return _error(422, "prompt: must be text")
        if body["model"] not in self.models:
            return _error(404, "no such model")
        self.bodies.append(body)
        script = self.script(len(self.bodies) - 1)
        if script.status != 200:
            return _error(script.status, "not now")
        chat = request.url.path.endswith("chat/completions")
        return StreamingResponse(self._events(body, script, chat), media_type="text/event-stream")

    async def _events(
        self, body: dict[str, Any], script: Script, chat: bool
    ) -> AsyncIterator[bytes]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if chat:
                yield _event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            await asyncio.sleep(script.first_s)
            while len(self.bodies) < script.hold:
                await asyncio.sleep(0.005)
            total = body["max_tokens"] if script.end == "done" else 2
            total = 0 if script.end == "empty" else total
            for start in range(0, total, script.tokens_per_event):
                await asyncio.sleep(script.gap_s if start else 0)
                count = min(script.tokens_per_event, total - start)
                yield _event(_tokens(body, count, chat, last=start + count == body["max_tokens"]))
            async for last in self._end(body, script):
                yield last
        finally:
            self.running -= 1

    async def _end(self, body: dict[str, Any], script: Script) -> AsyncIterator[bytes]:
        if script.end == "cut":
            raise ConnectionError("scripted")
        if script.end == "hang":
            await asyncio.sleep(600)
        if script.end == "error":
            yield _event({"error": {"message": "a peer died"}})
        if script.end == "garbage":
            yield b"data: {nonsense\n\n"
        if script.end in ("done", "empty"):
            if "stream_options" in body:
                yield _event({"choices": [], "usage": _usage(body, script)})
            yield b"data: [DONE]\n\n"


def _tokens(body: dict[str, Any], count: int, chat: bool, last: bool) -> dict[str, Any]:
    text = "x" * count
    choice: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
    choice["finish_reason"] = "length" if last else None
    if body.get("return_token_ids"):
        choice["token_ids"] = [1] * count
    return {"choices": [choice]}


def _usage(body: dict[str, Any], script: Script) -> dict[str, Any]:
    prompt = body.get("prompt") or body["messages"][0]["content"]
    length = len(prompt) if isinstance(prompt, list) else len(prompt.split())
    usage: dict[str, Any] = {"prompt_tokens": length}
    usage["completion_tokens"] = 0 if script.end == "empty" else body["max_tokens"]
    if script.cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": script.cached}
    return usage


def _event(content: Any) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status)


class Running:
    """Serves from construction until `stop`."""

    def __init__(self, fake: FakeOpenAI) -> None:
        self.fake = fake
        settings = uvicorn.Config(fake.app(), port=0, log_level="critical", access_log=False)
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        """Returns when the server has ended; it waits for nobody."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)
