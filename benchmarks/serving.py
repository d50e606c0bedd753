"""What the serving benchmarks share: servers as children, prompts of real text, kept measurements.

Every server is `silva serve` in a process of its own with folders of its own, on loopback. It ends
with the benchmark, however that ends. A measurement that is complete is kept in the work folder, so
that a benchmark that was killed goes on with the next one; another commit measures anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import common

from silva.reality.process import end_with_parent

Numbers = dict[str, Any]
SMOLLM2, STORIES = "smollm2", "stories260k"
GENERATE, CONTINUOUS = "transformers, generate", "transformers, continuous batching"
"""Its ways, as results name them."""
START_S, STOP_S = 900.0, 120.0
"""A machine that does other things too is slow; whatever is timed is timed by itself."""
WATCH_S = 0.5
"""Peers report twice a second."""
WARM = 4
"""Requests at a time before a closed loop."""
LIBRARIES = ("transformers", "tokenizers", "httpx")
TEXTS = ("LICENSE", "README.md", "docs/architecture.md", "docs/tuning.md", "docs/serving.md")
"""Real text, of which prompts are cut."""


class Bench:
    """One benchmark under way: its options, its circumstances, and what it has measured already."""

    def __init__(
        self,
        name: str,
        doc: str | None,
        units: str,
        add: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
    ) -> None:
        parser = common.make_parser((doc or "").splitlines()[0])
        parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is published")
        parser.add_argument("--again", action="store_true", help="forget what was measured before")
        add(parser)
        self.name, self.options = name, parser.parse_args()
        self.quick: bool = self.options.quick
        self.circumstances = common.facts(LIBRARIES)
        self.folder: Path = self.options.work.resolve() / (
            f"serving-{name}" + ("-quick" if self.quick else "")
        )
        print(common.heading(self.circumstances))
        print(f"seed      0\nunits     {units}\n", flush=True)
        self._units = units
        # One that was told to end takes its servers with it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    @cached_property
    def _kept(self) -> Numbers:
        kept = None if self.options.again else common.read_json(self.folder / "kept.json")
        about = {"commit": self.circumstances["commit"], "machine": self.circumstances["machine"]}
        return kept if kept and kept["about"] == about else {"about": about, "done": {}}

    def measure(self, key: str, work: Callable[[], Numbers]) -> Numbers:
        """What `work` gives, unless it was measured before the benchmark was killed."""
        done = self._kept["done"]
        if key not in done:
            print(f"{time.strftime('%H:%M:%S')}  {key}", flush=True)
            done[key] = work()
            common.write_json(self.folder / "kept.json", self._kept)
        return done[key]

    def model(self, name: str) -> str:
        """What `silva serve` is told; leaves the program where the model is not to be had."""
        if name == SMOLLM2:
            return name
        folder = self.options.data_dir / name
        if not folder.is_dir():
            sys.exit(f"no {name}: {folder} is no folder (--data-dir)")
        return str(folder.resolve())

    def publish(self, content: Numbers, *words: str) -> None:
        """Write the result; `words`: options of the command that change what is measured."""
        command = " ".join((f"python benchmarks/serving_{self.name}.py", *words))
        result = {"benchmark": f"serving-{self.name}", "command": command, "units": self._units}
        result |= {"seed": 0, **self.circumstances, **content}
        folder = self.folder if self.quick else self.options.results
        path = folder / f"serving-{self.name}.json"
        common.write_json(path, result)
        print(f"written to {path}")


class Server:
    """`silva serve` as a child, ready to answer; end it with `stop`."""

    def __init__(self, folder: Path, model: str, *options: str, silva: Sequence[str] = ()) -> None:
        """`folder`: for its log and, unless the options say otherwise, its cache on disk.

        `silva`: another way to start silva's own program.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "server.log"
        command = [*(silva or common.silva_command()), "serve", model, "--port", "0"]
        command += ["--set", f"serve.kv.cache_folder='{folder / 'kv'}'", *options]
        self.started_s = time.perf_counter()
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=common.environment(common.cores()),
                preexec_fn=end_with_parent,
            )
        self.url = self._announced()

    def _announced(self) -> str:
        """The address that it prints once it serves."""
        while time.perf_counter() - self.started_s < START_S:
            for line in self.log.read_text(errors="replace").splitlines():
                if line.startswith("silva: serving at "):
                    return line.removeprefix("silva: serving at ").removesuffix("/v1")
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        self.stop()
        sys.exit(f"the server did not start:\n{common.last_lines(self.log)}")

    def status(self) -> Numbers:
        """As `silva status --json` shows it."""
        import httpx

        return httpx.get(f"{self.url}/admin/v1/status", trust_env=False, timeout=30).json()

    def change(self, verb: str, **what: Any) -> None:
        """As `silva scale`, `drain` and `switch` ask for it; raises what httpx raises."""
        import httpx

        url = f"{self.url}/admin/v1/{verb}"
        httpx.post(url, json=what, trust_env=False, timeout=30).raise_for_status()

    def stop(self) -> None:
        """End it, gently at first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@contextmanager
def serving(
    folder: Path, model: str, *options: str, keep: bool = False, silva: Sequence[str] = ()
) -> Iterator[Server]:
    """A server for a while; its folder is emptied before unless `keep`."""
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    server = Server(folder, model, *options, silva=silva)
    try:
        yield server
    finally:
        server.stop()


class Steady:
    """Looks at a server while all streams of a closed loop are under way.

    The first answer of each stream is left aside, as is the last: while the loop begins and ends, fewer
    requests run than it has streams.
    """

    def __init__(self, look: Callable[[], Numbers], streams: int, requests: int) -> None:
        self._look, self._steady, self._done = look, range(streams, requests - streams + 1), 0
        self._over = threading.Event()
        self._seen: list[Numbers] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def progress(self, told: Any) -> None:
        """For `bench.run.run` to call with its `Progress`."""
        self._done = told.done if told.stage == "load" else 0

    @property
    def seen(self) -> list[Numbers]:
        """All that was seen, at least twice; leaves the program where the load was too short."""
        if len(self._seen) < 2:
            sys.exit(
                "the load was over before the server could be looked at twice: take a longer one"
            )
        return self._seen

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            if self._done in self._steady:
                self._seen.append(self._look())


def closed_loop(
    server: Server, load: Numbers, seed: int, look: Callable[[], Numbers]
) -> tuple[Any, list[Numbers]]:
    """The summary of `load["requests"]` from `load["streams"]` streams, and what `look` gave meanwhile.

    Before, a few requests by themselves: whoever has not computed yet knows no times. Leaves the
    program when a request fails.
    """
    from silva.config import build
    from silva.serving.bench.config import BenchConfig
    from silva.serving.bench.measure import summarise
    from silva.serving.bench.run import run

    def config(streams: int, requests: int, seed: int) -> BenchConfig:
        closed = {"arrival": "closed", "concurrency": streams, "requests": requests, "warmup": 0}
        work = {"input": str(load["prompt"]), "output": str(load["answer"])}
        tree = {"url": server.url, "seed": seed, "load": closed, "work": work}
        return build(BenchConfig, tree, "load")

    asyncio.run(run(config(WARM, 2 * WARM, seed + 1000)))
    with Steady(look, load["streams"], load["requests"]) as steady:
        whole = config(load["streams"], load["requests"], seed)
        summary = summarise(asyncio.run(run(whole, on_progress=steady.progress)))
    if summary.failed:
        sys.exit(f"requests failed: {summary.failures}")
    return summary, steady.seen


# Prompts ------------------------------------------------------------------------------------


class Text:
    """Real text as token ids of a model."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the model's directory, which has a tokenizer.json."""
        from tokenizers import Tokenizer

        text = "\n".join((common.ROOT / name).read_text("utf-8") for name in TEXTS)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens = tokenizer.encode(text, add_special_tokens=False).ids

    def cut(self, number: int, length: int) -> list[int]:
        """So many tokens from a place that depends on the number; no two numbers share a place."""
        start = number * 7919 % (len(self._tokens) - length)
        return self._tokens[start : start + length]


def folder_of(model: str) -> Path:
    """The directory of a model as `silva serve` maps it."""
    from silva.models.library import Library

    return Library().resolve(model)


# Asking -------------------------------------------------------------------------------------


def stream(
    url: str, bodies: Sequence[Numbers], keys: Sequence[str] = ("",), key: int = 0
) -> list[Any]:
    """Streamed completions of token ids, all sent at once; each as a `bench.nouns.Outcome`.

    Leaves the program when one of them fails.
    """
    from silva.serving.bench.client import Client, open_client
    from silva.serving.bench.config import BenchConfig
    from silva.serving.bench.nouns import Outcome, Planned

    async def one(client: Client, body: Numbers) -> Outcome:
        planned = Planned(0, 0.0, len(body["prompt"]), body["max_tokens"], key=key)
        outcome = Outcome(planned, client.clock())
        extra = {"stream": True, "stream_options": {"include_usage": True}}
        await client.send(json.dumps({**body, **extra}).encode(), outcome)
        return outcome

    async def main() -> list[Outcome]:
        async with open_client(BenchConfig(url=url), keys, time.perf_counter) as client:
            return await asyncio.gather(*(one(client, body) for body in bodies))

    outcomes = asyncio.run(main())
    for outcome in outcomes:
        if not outcome.good:
            sys.exit(f"a request failed: {outcome.error}: {outcome.message}")
    return outcomes


def completion(model: str, prompt: Sequence[int], tokens: int, **more: Any) -> Numbers:
    """The body of a greedy completion of just so many tokens."""
    greedy = {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "return_token_ids": True}
    return {"model": model, "prompt": list(prompt), **greedy, **more}
