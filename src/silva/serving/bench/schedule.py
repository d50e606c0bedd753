"""The requests of a run, in order: a function of the settings, the trace and the seed alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from silva.serving.bench.arrivals import CHUNK, arrival_times
from silva.serving.bench.config import CLOSED, FROM_TRACE, TRACE, BenchConfig
from silva.serving.bench.lengths import parse_lengths
from silva.serving.bench.nouns import Planned
from silva.serving.bench.trace import TraceRow


def schedule(config: BenchConfig, trace: Sequence[TraceRow], keys: int) -> Iterator[Planned]:
    """Requests until the count, the duration or the trace ends them, dealt to `keys` API keys.

    config: as `settled` gives it. The duration ends an open loop's schedule; in a closed loop it is
    the clock that ends it. A longer schedule begins as a shorter one does. Raises ConfigError for
    lengths that cannot be read.
    """
    load = config.load
    columns = _Columns.of(config, trace, keys)
    most = most_requests(config, trace)
    ends_s = load.duration_s if load.duration_s and load.arrival != CLOSED else math.inf
    for index in itertools.count():
        if index == most or (planned := columns.next(index)).at_s >= ends_s:
            return
        yield planned


def most_requests(config: BenchConfig, trace: Sequence[TraceRow]) -> int | None:
    """The count that ends a schedule: the one set, or the trace's rows; None where only time does."""
    counts = [config.load.requests] if config.load.requests else []
    # A trace ends the schedule even where nothing is taken from it but its length.
    counts += [len(trace)] if config.work.trace else []
    return min(counts, default=None)


def warmup(config: BenchConfig, keys: int) -> list[Planned]:
    """Requests that are answered before anything is measured, of lengths as in the run."""
    # A trace's lengths belong to its own requests.
    lengths = [
        "64" if text == FROM_TRACE else text for text in (config.work.input, config.work.output)
    ]
    rng = np.random.default_rng([config.seed, 1])
    count = config.load.warmup
    own, answer = (parse_lengths(text, "work").draw(rng, count).tolist() for text in lengths)
    pairs = zip(own, answer, strict=True)
    return [Planned(-1 - n, 0.0, i, o, n % keys) for n, (i, o) in enumerate(pairs)]


@dataclass(frozen=True)
class _Columns:
    """One stream for each field of `Planned`, each from a generator of its own, so that no setting
    of one field changes another.
    """

    at_s: Iterator[float]
    input_tokens: Iterator[int]
    output_tokens: Iterator[int]
    key: Iterator[int]
    prefix: Iterator[int | None]
    blocks: Iterator[tuple[int, ...]]

    def next(self, index: int) -> Planned:
        """The request of the next place of every stream."""
        return Planned(
            index=index,
            at_s=next(self.at_s),
            input_tokens=next(self.input_tokens),
            output_tokens=next(self.output_tokens),
            key=next(self.key),
            prefix=next(self.prefix),
            blocks=next(self.blocks),
        )

    @classmethod
    def of(cls, config: BenchConfig, trace: Sequence[TraceRow], keys: int) -> _Columns:
        work = config.work
        times, inputs, outputs, dealt, shared = (
            np.random.default_rng(each)
            for each in np.random.SeedSequence([config.seed, 0]).spawn(5)
        )
        traced = work.input == FROM_TRACE
        return cls(
            at_s=_times(config, trace, times),
            input_tokens=_lengths(work.input, [r.input_tokens for r in trace], inputs, "input"),
            output_tokens=_lengths(
                work.output, [r.output_tokens for r in trace], outputs, "output"
            ),
            key=_keys(keys, dealt),
            prefix=_prefixes(config, shared),
            blocks=iter([row.blocks for row in trace]) if traced else itertools.repeat(()),
        )


def _times(
    config: BenchConfig, trace: Sequence[TraceRow], rng: np.random.Generator
) -> Iterator[float]:
    load = config.load
    if load.arrival == TRACE:
        return (row.at_s / load.speed for row in trace)
    if load.arrival == CLOSED:
        return itertools.repeat(0.0)
    return arrival_times(load.arrival, load.rate, load.cv, rng)


def _lengths(
    text: str, traced: Sequence[int], rng: np.random.Generator, name: str
) -> Iterator[int]:
    return iter(traced) if text == FROM_TRACE else parse_lengths(text, f"work.{name}").stream(rng)


def _keys(keys: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.integers(0, keys, CHUNK).tolist()


def _prefixes(config: BenchConfig, rng: np.random.Generator) -> Iterator[int | None]:
    work = config.work
    while True:
        numbers = rng.integers(0, work.prefixes, CHUNK).tolist()
        has = (rng.random(CHUNK) < work.prefix_share).tolist()
        for number, shares in zip(numbers, has, strict=True):
            yield number if shares and work.prefix_tokens else None
