"""What a calm server adds to the steps of its engines: one request at a time, nothing in the way.

Three kinds of requests tell its costs apart: short prompts and long ones with an answer of two
tokens, and short prompts with longer answers. Delays are medians of the phases that the server tells
and of what the client sees; seconds of cores are counted by the kernel over all processes but the
engines, the client's own among them.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from silva.config import build
from silva.reality.process import ServerProcess, own_cpu_s
from silva.serving.bench.config import BenchConfig
from silva.serving.bench.nouns import Outcome
from silva.serving.bench.run import Progress, run
from silva.supernode.profile import ServerCosts, Steps


@dataclass(frozen=True)
class Kind:
    """Requests of one kind: tokens of prompt and answer, how many of them."""

    prompt: int
    output: int
    count: int


@dataclass(frozen=True)
class Calm:
    """What came of one kind."""

    kind: Kind
    outcomes: list[Outcome]
    cpu_s: float
    """Seconds of cores for one of them."""

    def phase_s(self, name: str) -> float:
        """Median of a phase that the server tells; 0 where it tells none."""
        told = (o.timings.get(f"{name}_ms") for o in self.outcomes)
        known = [value / 1e3 for value in told if value is not None]
        return statistics.median(known) if known else 0.0

    @property
    def ttft_s(self) -> float:
        """Median at the client."""
        return statistics.median(o.ttft_s for o in self.outcomes if o.ttft_s is not None)

    @property
    def tpot_s(self) -> float:
        """Median gap between tokens at the client, after the first of decode."""
        gaps = [b - a for o in self.outcomes for a, b in pairwise(o.tokens_s[1:])]
        return statistics.median(gaps)


def kinds_of(chunk: int, context_tokens: int, count: int) -> tuple[Kind, Kind, Kind]:
    """Short, long and talkative requests within a server's limits; all prompts of one chunk."""
    longest = max(2, min(chunk, context_tokens - 34))
    short = max(1, longest // 4)
    answer = max(3, min(33, context_tokens - short - 1))
    return Kind(short, 2, count), Kind(longest, 2, count), Kind(short, answer, count)


def ask(server: ServerProcess, kind: Kind, seed: int, vocabulary: int) -> Calm:
    """Requests of one kind, one after the other."""
    tree = {
        "url": server.url,
        "seed": seed,
        "timings": True,
        "load": {"arrival": "closed", "concurrency": 1, "requests": kind.count, "warmup": 2},
        "work": {
            "input": str(kind.prompt),
            "output": str(kind.output),
            "vocabulary_low": min(20, vocabulary - 2),
            "vocabulary_high": min(500, vocabulary),
        },
    }
    begun_s: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "load" and not begun_s:
            begun_s.append(server.other_cpu_s() + own_cpu_s())

    found = asyncio.run(run(build(BenchConfig, tree, "calm"), on_progress=watch))
    cpu_s = server.other_cpu_s() + own_cpu_s() - begun_s[0]
    good = [outcome for outcome in found.outcomes if outcome.good]
    return Calm(kind, good, max(0.0, cpu_s) / max(1, len(good)))


def measure_calm(
    server: ServerProcess,
    kinds: tuple[Kind, Kind, Kind],
    vocabulary: int,
    watch: Callable[[Kind], None] = lambda kind: None,
) -> tuple[Calm, Calm, Calm]:
    """All three kinds."""
    found = []
    for seed, kind in enumerate(kinds, 1000):
        watch(kind)
        found.append(ask(server, kind, seed, vocabulary))
    short, long, talkative = found
    return short, long, talkative


def costs_of(steps: Steps, short: Calm, long: Calm, talkative: Calm) -> ServerCosts:
    """The delays and seconds that explain what was measured, once the steps are taken off."""
    tokens = long.kind.prompt - short.kind.prompt
    queue_s = statistics.median([short.phase_s("queue"), long.phase_s("queue")])
    beyond_s = [
        calm.phase_s("prefill") - steps.prefill_times.seconds([(calm.kind.prompt, 0)])
        for calm in (short, long)
    ]
    loop_token_s = max(0.0, beyond_s[1] - beyond_s[0]) / tokens
    loop_s = statistics.mean(beyond_s) - loop_token_s * (short.kind.prompt + long.kind.prompt) / 2
    decode = talkative.kind.prompt + talkative.kind.output // 2
    decode_s = talkative.tpot_s - steps.decode_times.seconds(1, decode)
    inside_s = [c.phase_s("first_token") - c.phase_s("prefill") - queue_s for c in (short, long)]
    outside_s = [c.ttft_s - c.phase_s("first_token") for c in (short, long)]
    moving_s = max(0.0, long.phase_s("transfer") - short.phase_s("transfer")) / tokens
    fixed_s = short.phase_s("transfer") - moving_s * short.kind.prompt
    prompt_s = max(0.0, long.cpu_s - short.cpu_s) / tokens
    token_s = max(0.0, talkative.cpu_s - short.cpu_s) / (talkative.kind.output - short.kind.output)
    request_s = short.cpu_s - prompt_s * short.kind.prompt - token_s * short.kind.output
    return ServerCosts(
        arrive_ms=_ms(statistics.median(outside_s)),
        queue_ms=_ms(queue_s),
        first_ms=_ms(statistics.median(inside_s)),
        prefill_loop_ms=_ms(loop_s),
        prefill_loop_token_us=_ms(loop_token_s) * 1e3,
        decode_loop_ms=_ms(decode_s),
        hand_over_ms=_ms(fixed_s),
        hand_over_token_us=_ms(moving_s) * 1e3,
        request_cpu_ms=_ms(request_s),
        token_cpu_us=_ms(token_s) * 1e3,
        prompt_token_cpu_us=_ms(prompt_s) * 1e3,
    )


def _ms(seconds: float) -> float:
    """Milliseconds; less than nothing is noise of what was subtracted."""
    return max(0.0, seconds * 1e3)
