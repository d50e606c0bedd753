"""Peers of a real server are killed while many clients read streams: what do the clients read?

A client whose stream is over asks again until all kills are done, and moments are not on the clock:
a peer is killed when the server has said so many tokens more. So every kill, on any machine, comes
while all clients read, and hits many requests somewhere in their texts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
from real_command import Command

POOLS = {"prefill": 2, "decode": 2, "cache": 2}
SETTINGS = ("serve.step.most_running=128",)
"""All streams may decode at the same time."""
OPTIONS: dict[str, object] = {**POOLS, "kv": "32MiB", "cache-ram": "4MiB", "cache-disk": "16MiB"}
STREAMS = 200
LEAST_UNDER_WAY = 100
"""Requests that the server itself has under way at a kill; it may be done with what is still read."""
DISTINCT = 50
"""Different requests among the streams: each is asked by several clients."""
TOKENS = 64
MOST_BETWEEN = 400
"""Tokens of all streams together from one kill to the next."""
ENDS = ("finished", "cancelled", "failed")
WITHIN_S = 600.0
"""Far more than a machine needs: a stream that stands still is an error, not a wait."""

_ANIMALS = ("cat", "dog", "bird", "frog", "bear")
_NAMES = ("Lily", "Tom", "Mia", "Ben", "Sue")
_PLACES = ("in the park", "at home")


def texts() -> list[str]:
    """DISTINCT beginnings of a story."""
    found = [
        f"Once upon a time, there was a {animal} named {name} who played {place}."
        for animal in _ANIMALS
        for name in _NAMES
        for place in _PLACES
    ]
    assert len(found) == DISTINCT
    return found


def bodies(tokens: int = TOKENS) -> list[dict[str, Any]]:
    """DISTINCT requests, every other one sampled from a seed of its own."""
    return [
        {
            "model": "tiny",
            "prompt": text,
            "max_tokens": tokens,
            "temperature": 0.8 * (number % 2),
            "seed": number,
            "stream": True,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        for number, text in enumerate(texts())
    ]


@dataclass
class Heard:
    """What one client has read so far."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    ended: bool = False
    """The stream has said so itself."""
    error: str = ""


class Apart(httpx.AsyncBaseTransport):
    """A pool for each request: one with many connections is searched, for each of them, by each."""

    def __init__(self) -> None:
        self._plain = httpx.create_ssl_context(verify=False)
        self._limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pool = httpx.AsyncHTTPTransport(verify=self._plain, limits=self._limits)
        return await pool.handle_async_request(request)


@asynccontextmanager
async def clients(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """As many connections as there are requests; nothing is tried again on this side."""
    async with httpx.AsyncClient(
        base_url=url, transport=Apart(), timeout=WITHIN_S, trust_env=False
    ) as http:
        yield http


async def listen(http: httpx.AsyncClient, body: dict[str, Any], heard: Heard) -> Heard:
    """Read one stream to its end. Whatever goes wrong is written into `heard`."""
    try:
        async with http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                heard.error = f"{response.status_code}: {(await response.aread()).decode()}"
                return heard
            async for line in response.aiter_lines():
                data = line.removeprefix("data: ")
                if not data:
                    continue
                if data == "[DONE]":
                    heard.ended = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    heard.error = data
                    continue
                choice = event["choices"][0]
                heard.text += choice["text"]
                heard.tokens += choice["token_ids"]
                heard.finish = choice["finish_reason"]
    except httpx.HTTPError as error:
        heard.error = repr(error)
    return heard


async def undisturbed(command: Command) -> list[Heard]:
    """The answers to all of `bodies` while nobody is killed. AssertionError where one is not whole."""
    async with clients(command.url) as http:
        heard = await asyncio.gather(*(listen(http, body, Heard()) for body in bodies()))
    assert all(h.ended and h.finish == "length" and len(h.tokens) == TOKENS for h in heard), heard
    return heard


@dataclass
class Storm:
    """What came of one storm."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(POOLS, 0))
    streams_at_kills: list[int] = field(default_factory=list)
    """How many requests the server had under way just before each."""
    before: int = 0
    """Requests that the server had had when it began."""
    over: threading.Event = field(default_factory=threading.Event)
    """Whoever has read an answer asks no more."""
    heard: list[tuple[int, Heard]] = field(default_factory=list)
    """Which of `bodies` was asked, and what was read; in the order in which they were asked."""

    def wrong(self, calm: Sequence[Heard]) -> list[tuple[int, Heard]]:
        """Streams that were not read to the end, or say anything else than when undisturbed."""
        return [(number, heard) for number, heard in self.heard if heard != calm[number]]


async def storm(command: Command, victims: Sequence[str], dice: random.Random) -> Storm:
    """Kill a peer of each role named in `victims` while STREAMS clients read; read all to the end."""
    return await play(command, partial(kill_all, command, victims, dice))


async def play(
    command: Command,
    act: Callable[[Admin, Storm], None],
    *,
    tokens: int = TOKENS,
    whole: bool = True,
) -> Storm:
    """`act` beside STREAMS clients, once all of them have asked; what they read to the end, or until
    `act` was over where that is not to be the `whole` answer.
    """
    found, asked = Storm(), bodies(tokens)

    async def ask_on(client: int) -> None:
        for number in itertools.count(client):
            heard = Heard()
            found.heard.append((number % DISTINCT, heard))
            await listen(http, asked[number % DISTINCT], heard)
            if found.over.is_set() or heard.error:
                return

    async with clients(command.url) as http, asyncio.timeout(WITHIN_S):
        with Admin(command.url) as admin:
            found.before = admin.counters()["requests"]
            streams = [asyncio.create_task(ask_on(client)) for client in range(STREAMS)]
            try:
                # In a thread: whoever reads so many streams answers nobody else in time.
                await asyncio.to_thread(begin, act, admin, found)
                found.over.set()
                if whole:
                    await asyncio.gather(*streams)
            finally:
                admin.give_up()
                for stream in streams:
                    stream.cancel()
                await asyncio.gather(*streams, return_exceptions=True)
    return found


class Admin:
    """What the server says of itself, over one connection. TimeoutError once it is given up."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=WITHIN_S, trust_env=False)
        self._end_s = time.monotonic() + WITHIN_S

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def give_up(self) -> None:
        """Whoever still waits for something is to wait no longer."""
        self._end_s = 0.0

    def counters(self) -> dict[str, int]:
        return dict(self.status()["counters"])

    def pids(self, role: str, *states: str) -> list[int]:
        """Processes of a role whose peers are in one of these states."""
        peers = self.status()["peers"]
        return [p["pid"] for p in peers if p["role"] == role and p["state"] in states]

    def status(self) -> dict[str, Any]:
        if time.monotonic() > self._end_s:
            raise TimeoutError("what the scene waits for has not come")
        time.sleep(0.01)
        return dict(self._http.get("/admin/v1/status").json())


def begin(act: Callable[[Admin, Storm], None], admin: Admin, found: Storm) -> None:
    """`act`, once all have asked: not all at one time, where the server is sooner done than they."""
    while admin.counters()["requests"] < found.before + STREAMS:
        pass
    act(admin, found)


def kill_all(
    command: Command, victims: Sequence[str], dice: random.Random, admin: Admin, found: Storm
) -> None:
    """Kill a peer of each role in `victims`; into `found`."""
    now = admin.counters()
    for role in victims:
        mark = now["tokens"] + dice.randrange(MOST_BETWEEN)
        # Clients may read more slowly than the server speaks: until they have asked again.
        while now["tokens"] < mark or under_way(now) < LEAST_UNDER_WAY:
            now = admin.counters()
        found.streams_at_kills.append(under_way(now))
        kill(command, admin, role, dice)
        found.kills[role] += 1


def under_way(counters: dict[str, int]) -> int:
    """Requests that have arrived and are not over."""
    return counters["requests"] - sum(counters[end] for end in ENDS)


def kill(command: Command, admin: Admin, role: str, dice: random.Random) -> None:
    """SIGKILL to a ready peer of a role, waiting for one; returns once the server has noticed."""
    while not (ready := admin.pids(role, "ready")):
        pass
    command.traces.note()
    victim = dice.choice(ready)
    os.kill(victim, signal.SIGKILL)
    while victim in admin.pids(role, "ready", "draining", "dead"):
        pass
