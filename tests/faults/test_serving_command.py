"""`silva serve` itself, over HTTP: clients that leave, and signals while streams are under way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from serving_world import prompts, save_model

PROMPTS = prompts(8)
TOKENS = 160
PROGRAM = "from silva.cli.main import run; run()"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


class Command:
    """`silva serve` in a process group of its own, with folders that nobody else uses."""

    def __init__(self, model: Path) -> None:
        # short: sockets lie in it
        self._scratch = tempfile.TemporaryDirectory(prefix="s-")
        self.folder = Path(self._scratch.name)
        words = ["serve", model, "--port", 0, "--kv", "4MiB", "--cache-ram", "1MiB"]
        words += ["--cache-disk", "4MiB", "--set", "serve.threads=1", "--name", "tiny"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(self.folder), "SILVA_CACHE": str(self.folder / "c")},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1].removesuffix("/v1")
        assert self.url.startswith("http")
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/admin/v1/status", timeout=30).json()
        return found

    def settled(self) -> dict[str, int]:
        """Wait until all blocks are free; the counters then."""
        for _ in range(200):
            status = self.status()
            peers = [p for p in status["peers"] if p["role"] != "cache"]
            if all(p["blocks_free"] == p["blocks_total"] > 0 for p in peers):
                return dict(status["counters"])
            time.sleep(0.1)
        raise AssertionError(f"blocks are missing: {status['peers']}")

    def ended(self) -> int:
        """Wait for the end, of its peers too; what is left in its folder fails the test."""
        code = self.process.wait(60)
        _, alive = psutil.wait_procs(self.family, timeout=30)
        assert not alive
        assert [path.name for path in self.folder.iterdir()] == ["c"]
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._scratch.cleanup()


@pytest.fixture
def command(model: Path) -> Iterator[Command]:
    command = Command(model)
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
    calm = [listen(command.url, body(prompt)) for prompt in PROMPTS]
    begun = threading.Barrier(len(PROMPTS) + 1)
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        streams = [threads.submit(listen, command.url, body(p), begun) for p in PROMPTS]
        begun.wait(120)
        os.killpg(command.process.pid, sig)  # to all, as Ctrl-C does
        assert [stream.result() for stream in streams] == calm
    assert all(len(tokens) == TOKENS for tokens in calm)
    assert command.ended() == 0


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
