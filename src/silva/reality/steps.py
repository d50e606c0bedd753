"""Seconds of an engine's steps, by itself and beside a busy engine of the other role.

Two processes hold the engine that `silva serve` makes, with the threads of a peer. One is measured,
the other rests or is busy. Keys and values hold random numbers: pages that nobody wrote to are all
one page, and reading them would be too fast.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from silva.control.request import Request, SamplingParams
from silva.errors import RunError
from silva.models.llama_config import read_config
from silva.serving.config import ServeConfig

LEAST, MOST = 3, 48
"""Repeats of a step that are measured."""
_START_S = 120.0
_BUSY_BATCH, _BUSY_CONTEXT = 4, 256
"""Of an engine that decodes beside the one that is measured."""


@dataclass(frozen=True)
class Grid:
    """What is measured. `point_s`: seconds spent on each point, at least LEAST steps."""

    chunks: tuple[int, ...]
    befores: tuple[int, ...]
    """Tokens before a chunk of the largest size: multiples of it."""
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    point_s: float = 1.5

    @staticmethod
    def of(config: ServeConfig, context_tokens: int, point_s: float) -> Grid:
        """Points for the limits of a server and the longest request of its model."""
        chunk = min(config.step.chunk_tokens, context_tokens - 2)
        chunks = sorted({max(1, chunk // part) for part in (16, 4, 2, 1)} | {chunk * 3 // 4})
        befores = tuple(chunk * n for n in (1, 3) if chunk * (n + 1) + 2 <= context_tokens)
        most = min(config.step.most_running, 16)
        batches = tuple(sorted({1, 2, 4, 8, most} & set(range(1, most + 1))))
        longest = context_tokens - MOST - 3
        contexts = tuple(sorted({max(1, min(n, longest)) for n in (64, 512)}))
        return Grid(tuple(c for c in chunks if c), befores, batches, contexts, point_s)


@dataclass(frozen=True)
class Point:
    """One kind of step. prefill: tokens, and those before. decode: requests, and tokens of each."""

    role: str
    first: int
    second: int


@dataclass(frozen=True)
class Found:
    """Seconds of its repeats; `earlier_s`: of chunks of it after which nothing was sampled."""

    point: Point
    alone_s: list[float]
    beside_s: list[float]
    earlier_s: list[float]


def measure_steps(
    config: ServeConfig,
    model: Path,
    threads: int,
    grid: Grid,
    watch: Callable[[Point], None] = lambda point: None,
) -> list[Found]:
    """Every point of the grid. RunError when a process of it ends before its time."""
    config = replace(
        config,
        kv=replace(config.kv, peer_bytes=_bytes_for(config, model, grid)),
        step=replace(config.step, tpot_target_s=0.0),  # or a whole batch may not be let in
    )
    points = [Point("prefill", tokens, 0) for tokens in grid.chunks]
    points += [Point("prefill", grid.chunks[-1], before) for before in grid.befores]
    points += [Point("decode", b, c) for b in grid.batches for c in grid.contexts]
    found = []
    with _engine(config, model, threads) as one, _engine(config, model, threads) as other:
        for point in points:
            watch(point)
            alone, earlier = one.ask(point, grid.point_s)
            with other.busy("decode" if point.role == "prefill" else "prefill"):
                beside, _ = one.ask(point, grid.point_s)
            found.append(Found(point, alone, beside, earlier))
    return found


def _bytes_for(config: ServeConfig, model: Path, grid: Grid) -> int:
    """A pool that is just large enough for all points."""
    shape, size = read_config(model), config.kv.block_tokens
    itemsize = 2 if config.dtype == "bfloat16" else 4
    token = shape.layers * shape.kv_heads * shape.head_size * 2 * itemsize
    longest = (max((*grid.befores, 0)) + grid.chunks[-1] + size) * 2
    batch = grid.batches[-1] * (grid.contexts[-1] + MOST + 3 * size)
    busy = _BUSY_BATCH * (_BUSY_CONTEXT + MOST + 3 * size)
    return max(1 << 20, token * max(longest, batch, busy))


class _Engine:
    """The process of one engine, as seen from here."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def ask(self, point: Point, seconds: float) -> tuple[list[float], list[float]]:
        """Measure a point."""
        answer: tuple[list[float], list[float]] = self._call(point, seconds)
        return answer

    @contextmanager
    def busy(self, role: str) -> Iterator[None]:
        """Keep it computing meanwhile."""
        self._call(role, 0.0)
        yield
        self._call(None, 0.0)

    def _call(self, what: Any, seconds: float) -> Any:
        try:
            self._pipe.send((what, seconds))
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RunError("an engine's process ended while it was measured") from error


@contextmanager
def _engine(config: ServeConfig, model: Path, threads: int) -> Iterator[_Engine]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, config, model, threads), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(_START_S):
            raise RunError("an engine did not start in time")
        try:
            here.recv()
        except EOFError as error:
            raise RunError("an engine could not start; its message stands above") from error
        yield _Engine(here)
    finally:
        here.close()  # which ends it
        process.join(10.0)
        process.kill()
        process.join()


def _serve(pipe: Connection, config: ServeConfig, model: Path, threads: int) -> None:
    """The process: measures what is asked for, until nobody is there to ask."""
    bench = Bench(config, model, threads)
    try:
        pipe.send(None)
        while True:
            what, seconds = pipe.recv()
            if isinstance(what, Point):
                pipe.send(bench.measure(what, seconds))
            elif what is None:
                pipe.send(None)
            else:
                pipe.send(None)
                point = bench.busy(what)
                while not pipe.poll():
                    bench.measure(point, 0.0)
    except (EOFError, OSError):
        return


class Bench:
    """An engine, and steps of it on demand."""

    def __init__(self, config: ServeConfig, model: Path, threads: int) -> None:
        import torch

        from silva.serving.engine.listener import Handed, Listener
        from silva.serving.make_engine import make_engine

        class Heard(Listener):
            def handed(self, handed: Handed) -> None:
                engine.release(handed.sampled.request)

        dtype = getattr(torch, config.dtype)
        self.engine = engine = make_engine(config, model, Heard(), threads=threads)
        for block in range(engine.memory.blocks):
            torch.frombuffer(engine.memory.block(block), dtype=dtype).normal_()
        self._rng = np.random.default_rng(0)
        self._vocabulary = read_config(model).vocab_size
        self._number = 0

    def busy(self, role: str) -> Point:
        """What an engine does beside the one that is measured, within its limits."""
        settings = self.engine.state.settings
        limit = settings.context_tokens
        if role == "prefill":
            return Point(role, min(settings.step_tokens, limit - 2), 0)
        batch = min(_BUSY_BATCH, settings.max_running)
        return Point(role, batch, max(1, min(_BUSY_CONTEXT, limit - MOST - 3)))

    def measure(self, point: Point, seconds: float) -> tuple[list[float], list[float]]:
        """Seconds of repeats of a step; and of its first chunk where nothing is sampled after it."""
        end_s = time.perf_counter() + seconds
        taken: list[float] = []
        earlier: list[float] = []
        if point.role == "prefill":
            self._prompt(point)  # memory and kernels become warm
            while len(taken) < MOST and (len(taken) < LEAST or time.perf_counter() < end_s):
                steps = self._prompt(point)
                taken.append(steps[-1])
                earlier += steps[:1] if len(steps) > 1 else []
        else:
            while len(taken) < LEAST or (len(taken) < MOST and time.perf_counter() < end_s):
                taken += self._batch(point, end_s)
        return taken, earlier

    def _request(self, tokens: int, answer: int) -> Request:
        self._number += 1
        prompt = tuple(self._rng.integers(0, self._vocabulary, tokens).tolist())
        return Request(str(self._number), prompt, SamplingParams(max_tokens=answer, temperature=0))

    def _prompt(self, point: Point) -> list[float]:
        """Seconds of each step of a prompt."""
        self.engine.add(self._request(point.first + point.second, 2), hand_over=True)
        taken = []
        while self.engine.state.entries:
            start_s = time.perf_counter()
            self.engine.step()
            taken.append(time.perf_counter() - start_s)
        return taken

    def _batch(self, point: Point, end_s: float) -> list[float]:
        """Seconds of steps of a whole batch, after the one in which it joins."""
        for _ in range(point.first):
            request = self._request(point.second, MOST + 2)
            if self.engine.reserve(request) is None:
                raise RunError("the engine has no room for the batch that is measured")
            self.engine.commit(request, 0)
        self.engine.step()
        taken: list[float] = []
        while self.engine.state.decoding == point.first:
            start_s = time.perf_counter()
            self.engine.step()
            taken.append(time.perf_counter() - start_s)
            if len(taken) >= LEAST and time.perf_counter() >= end_s:
                break
        for request_id in list(self.engine.state.entries):
            self.engine.cancel(request_id)
        self.engine.step()  # the runner forgets them
        return taken
