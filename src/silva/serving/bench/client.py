"""One streamed request over HTTP, timed, and the questions that find out what a server understands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields, replace

import httpx

from silva.errors import ConfigError, ServingError
from silva.serving.api.timings import HEADER
from silva.serving.bench.body import Answer, Bodies
from silva.serving.bench.config import BenchConfig
from silva.serving.bench.nouns import Dialect, Outcome, Planned
from silva.serving.bench.sse import BadStreamError, EventReader

CONNECT_S = 10.0
_PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
_MAX_ERROR_BYTES = 65536
_MAX_MESSAGE = 300
UNREACHABLE = ("connection", "timeout", "broken off")
"""Errors that say nothing about what was asked."""
EMPTY = "empty answer"
_START = "start one with `silva serve`, or name it with --url"

Clock = Callable[[], float]


class AnswerError(Exception):
    """The server answered, but not with what was asked for; `kind` is the outcome's error."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class Client:
    """Sends requests to one server. `clock` gives seconds; keys are used by number."""

    def __init__(
        self, http: httpx.AsyncClient, config: BenchConfig, keys: Sequence[str], clock: Clock
    ) -> None:
        self._http, self._config, self.clock = http, config, clock
        self._headers = [{"authorization": f"Bearer {key}"} if key else {} for key in keys]
        self._path = _PATHS[config.endpoint]

    async def send(self, body: bytes, outcome: Outcome) -> None:
        """Send a request, and write into `outcome` what comes back and when.

        Nothing that a server does raises; the error is in the outcome. One that is cancelled stays
        unfinished.
        """
        outcome.started_s = self.clock()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await self._stream(body, outcome)
            outcome.error = ""
        except AnswerError as error:
            outcome.error, outcome.message = error.kind, str(error)
        except (TimeoutError, httpx.TimeoutException):
            outcome.error = "timeout"
            outcome.message = f"no whole answer in {self._config.timeout_s:g} s"
        except httpx.ConnectError as error:
            outcome.error, outcome.message = "connection", _short(error)
        except httpx.RequestError as error:
            outcome.error, outcome.message = "broken off", _short(error)
        except BadStreamError as error:
            outcome.error, outcome.message = "bad answer", _short(error)
        finally:
            outcome.finished_s = self.clock()

    async def _stream(self, body: bytes, outcome: Outcome) -> None:
        answer, reader = Answer(outcome), EventReader()
        headers = {"content-type": "application/json", **self._headers[outcome.planned.key]}
        if self._config.timings:
            headers[HEADER] = "1"
        request = self._http.stream("POST", self._path, content=body, headers=headers)
        async with request as response:
            if response.status_code != 200:
                message = _message(await _some(response))
                raise AnswerError(f"http {response.status_code}", message)
            async for data in response.aiter_bytes():
                now_s = self.clock()
                for event in reader.feed(data):
                    answer.take(event, now_s)
        if answer.failure:
            raise AnswerError("error event", answer.failure[:_MAX_MESSAGE])
        if not (reader.done or answer.finished):
            raise httpx.RemoteProtocolError("the stream ended before the answer did")
        if not outcome.tokens_s:
            raise AnswerError(EMPTY, "an answer without a token")

    async def first_model(self) -> str:
        """The first model that the server lists. ServingError where none answers."""
        try:
            response = await self._http.get("/v1/models", headers=self._headers[0])
            body = response.json() if response.status_code == 200 else {}
            found = body["data"][0]["id"]
        except httpx.HTTPError as error:
            raise ServingError(
                f"no server answers: {_short(error)}", where=self._config.url, remedy=_START
            ) from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ServingError(
                f"lists no models (status {response.status_code})",
                where=f"{self._config.url}/v1/models",
                remedy="name one with --model, and a key with --key where one is needed",
            ) from error
        return str(found)

    async def learn_dialect(self, model: str) -> Dialect:
        """What the server accepts, by requests of one token. ServingError where it refuses all."""
        config = self._config
        full = Dialect(
            tokens=config.endpoint == "completions" and config.prompts != "text",
            usage=True,
            ignore_eos=config.ignore_eos,
            token_ids=True,
        )
        if await self._try(model, full) is None:
            return full
        plain = Dialect(tokens=config.prompts == "tokens")
        refusal = await self._try(model, plain)
        if refusal is not None:
            raise ServingError(
                f"refuses to answer: {refusal.error}: {refusal.message}",
                where=f"{config.url}{self._path}",
                remedy="check --model, --key, --endpoint and --prompts",
            )
        # Each part alone: one that is refused must not cost the others.
        known = plain
        for part in fields(Dialect):
            if getattr(full, part.name) and not getattr(plain, part.name):
                taken = await self._try(model, replace(plain, **{part.name: True})) is None
                known = replace(known, **{part.name: taken})
        return known

    async def _try(self, model: str, dialect: Dialect) -> Outcome | None:
        """None when the server answers a small request in `dialect`, else what it refused with."""
        planned = Planned(index=-1, at_s=0.0, input_tokens=4, output_tokens=1)
        outcome = Outcome(planned, self.clock())
        await self.send(Bodies(self._config, model, dialect).encode(planned), outcome)
        if outcome.error in UNREACHABLE:
            raise ServingError(
                f"no server answers: {outcome.message}", where=self._config.url, remedy=_START
            )
        # One token may be part of a letter, so that there is nothing to read yet.
        return None if outcome.error in ("", EMPTY) else outcome


@asynccontextmanager
async def open_client(
    config: BenchConfig, keys: Sequence[str], clock: Clock
) -> AsyncIterator[Client]:
    """A client that opens as many connections as there are requests under way."""
    # A server closes what idles: a connection is dropped before the server would do it.
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0
    )
    timeout = httpx.Timeout(config.timeout_s, connect=min(CONNECT_S, config.timeout_s))
    try:
        # A proxy of the environment would be measured along with the server.
        http = httpx.AsyncClient(
            base_url=config.url, limits=limits, timeout=timeout, trust_env=False
        )
    except httpx.InvalidURL as error:
        raise ConfigError(
            f"no URL: {error}", where=config.url[:80], remedy="check --url"
        ) from error
    async with http:
        yield Client(http, config, keys, clock)


async def _some(response: httpx.Response) -> bytes:
    """The beginning of a body."""
    data = b""
    async for part in response.aiter_bytes():
        data += part
        if len(data) > _MAX_ERROR_BYTES:
            break
    return data[:_MAX_ERROR_BYTES]


def _message(body: bytes) -> str:
    """What an error in OpenAI's shape says, else the body's beginning."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:_MAX_MESSAGE]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body.decode(errors="replace")[:_MAX_MESSAGE]


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:_MAX_MESSAGE]
