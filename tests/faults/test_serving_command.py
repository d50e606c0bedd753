"""`silva serve` itself, over HTTP: clients that leave, and signals while streams are under way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_command import Command
from serving_world import prompts, save_model

PROMPTS = prompts(8)
TOKENS = 160


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def command(model: Path) -> Iterator[Command]:
    # none is taken for silent on a busy machine: a retry has another cause
    command = Command(model, ("serve.silence_s=100",))
    yield command
    command.close()


def body(prompt: tuple[int, ...], **more: Any) -> dict[str, Any]:
    whole = {"model": "tiny", "prompt": list(prompt), "max_tokens": TOKENS, "temperature": 0}
    return {**whole, "stream": True, "return_token_ids": True, "ignore_eos": True, **more}


def listen(url: str, asked: dict[str, Any], begun: threading.Barrier | None = None) -> list[int]:
    """The tokens of a stream that comes to its end; `begun` once it has begun."""
    tokens: list[int] = []
    last = ""
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=120) as stream:
        assert stream.status_code == 200
        for line in filter(None, stream.iter_lines()):
            last = line.removeprefix("data: ")
            if last == "[DONE]":
                break
            choice = json.loads(last)["choices"][0]
            if not tokens and begun is not None:
                begun.wait(120)
            tokens += choice["token_ids"]
            finish = choice["finish_reason"]
    assert (last, finish) == ("[DONE]", "length")
    return tokens


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing(command: Command, sig: signal.Signals) -> None:
    begun = threading.Barrier(len(PROMPTS) + 1)
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        calm = list(threads.map(lambda prompt: listen(command.url, body(prompt)), PROMPTS))
        streams = [threads.submit(listen, command.url, body(p), begun) for p in PROMPTS]
        begun.wait(120)
        command.traces.note()
        before, statuses = command.traces.alive(), [command.status()]
        os.killpg(command.process.pid, sig)  # to all, as Ctrl-C does
        while not all(stream.done() for stream in streams):
            assert command.traces.alive() <= before  # nobody is replaced
            with contextlib.suppress(httpx.HTTPError):  # once it has ended
                statuses.append(command.status())
        assert [stream.result() for stream in streams] == calm
    assert all(len(tokens) == TOKENS for tokens in calm)
    assert command.process.wait(60) == 0
    assert command.left() == []
    assert {status["counters"]["retries"] for status in statuses} == {0}
    peers = {(p["name"], p["pid"]) for status in statuses for p in status["peers"]}
    assert peers == {(p["name"], p["pid"]) for p in statuses[0]["peers"]}


def test_who_leaves_is_counted_and_gives_the_blocks_back(command: Command) -> None:
    url = f"{command.url}/v1/completions"
    for prompt in PROMPTS:
        with httpx.stream("POST", url, json=body(prompt), timeout=120) as stream:
            lines = stream.iter_lines()
            next(lines)
    counters = command.settled()
    assert (counters["cancelled"], counters["finished"]) == (len(PROMPTS), 0)
    whole = httpx.post(url, json=body(PROMPTS[0], stream=False), timeout=120).json()
    text = whole["choices"][0]["text"]
    asked = body(PROMPTS[0], stream=False, stop=[text[3:5]])
    stopped = httpx.post(url, json=asked, timeout=120).json()["choices"][0]
    assert (stopped["finish_reason"], stopped["text"]) == ("stop", text[: text.index(text[3:5])])
    counters = command.settled()
    ends = {name: counters[name] for name in ("cancelled", "finished", "failed")}
    assert ends == {"cancelled": len(PROMPTS), "finished": 2, "failed": 0}
