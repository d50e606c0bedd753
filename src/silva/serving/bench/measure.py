"""What the outcomes of a run say: latencies, throughput, goodput, errors. numpy does the statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silva.serving.bench.config import TargetsConfig
from silva.serving.bench.nouns import UNFINISHED, Outcome
from silva.serving.bench.run import Measured

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """A distribution in milliseconds; percentiles are interpolated linearly, as numpy's are."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    min: float
    max: float


@dataclass(frozen=True)
class Failures:
    """Requests that failed in one way, and what the first of them was told."""

    kind: str
    count: int
    example: str


@dataclass(frozen=True)
class Goodput:
    """Requests answered whole and within every target; 0 means no target.

    share: of all that were due, failed ones among them. rps: of them, for each second of the run.
    """

    ttft_target_ms: float
    tpot_target_ms: float
    met: int
    share: float
    rps: float


@dataclass(frozen=True)
class Tokens:
    """Tokens of requests that were answered whole; None where the server does not count them.

    cached_share: of the prompt tokens of those requests whose cached tokens are known.
    """

    prompt: int | None
    output: int
    cached: int | None
    cached_share: float | None


@dataclass(frozen=True)
class Summary:
    """The numbers of a run. Latencies are those of answered requests, from when they were due.

    offered_rps: requests due a second over the schedule. The other rates are over all seconds of the
    run, from its start to its last answer. inter_token_ms: between neighbouring tokens of one answer.
    send_lag_ms: how late the generator itself was; where it is large, the machine that runs the
    benchmark was too slow for the load. running_mean: requests under way, averaged over time.
    """

    sent: int
    answered: int
    failed: int
    unfinished: int
    elapsed_s: float
    offered_rps: float | None
    answered_rps: float
    output_tokens_per_s: float
    tokens: Tokens
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    inter_token_ms: Spread | None
    end_to_end_ms: Spread | None
    send_lag_ms: Spread | None
    running_mean: float
    running_max: int
    goodput: Goodput | None
    failures: tuple[Failures, ...]


def summarise(found: Measured) -> Summary:
    """All numbers of a run, finished or interrupted."""
    outcomes, seconds = found.outcomes, max(found.elapsed_s, 1e-9)
    good = [o for o in outcomes if o.good]
    unfinished = sum(o.error == UNFINISHED for o in outcomes)
    tokens = count_tokens(good)
    moments, running = running_over_time(outcomes)
    return Summary(
        sent=len(outcomes),
        answered=len(good),
        failed=len(outcomes) - len(good) - unfinished,
        unfinished=unfinished,
        elapsed_s=found.elapsed_s,
        offered_rps=offered_rps(outcomes),
        answered_rps=len(good) / seconds,
        output_tokens_per_s=tokens.output / seconds,
        tokens=tokens,
        ttft_ms=spread(o.ttft_s for o in good),
        tpot_ms=spread(o.tpot_s for o in good),
        inter_token_ms=spread(gaps_s(good)),
        end_to_end_ms=spread(o.end_to_end_s for o in good),
        send_lag_ms=spread(o.lag_s for o in outcomes),
        running_mean=float(np.sum(running[:-1] * np.diff(moments)) / seconds),
        running_max=int(running.max(initial=0)),
        goodput=goodput(outcomes, found.config.targets, seconds),
        failures=failures(outcomes),
    )


def spread(values_s: Iterable[float | None] | Array) -> Spread | None:
    """Distribution of seconds, in milliseconds; None where there are none."""
    values = 1e3 * np.array([v for v in values_s if v is not None], dtype=np.float64)
    if not len(values):
        return None
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    ends = float(values.min()), float(values.max())
    return Spread(len(values), float(values.mean()), p50, p90, p99, *ends)


def gaps_s(outcomes: Sequence[Outcome]) -> Array:
    """Seconds between neighbouring tokens of the same answer, all answers together.

    Tokens that came in one event have 0 s between them.
    """
    return np.concatenate([np.empty(0), *(np.diff(o.tokens_s) for o in outcomes)])


def offered_rps(outcomes: Sequence[Outcome]) -> float | None:
    """Gaps between due times, turned around; None for fewer than two requests."""
    due = np.array([o.scheduled_s for o in outcomes])
    span = float(np.ptp(due)) if len(due) else 0.0
    return (len(due) - 1) / span if span > 0 else None


def count_tokens(good: Sequence[Outcome]) -> Tokens:
    """Sums over answered requests."""
    prompts = [o.prompt_tokens for o in good if o.prompt_tokens is not None]
    known = [
        (o.cached_tokens, o.prompt_tokens)
        for o in good
        if o.cached_tokens is not None and o.prompt_tokens
    ]
    cached, whole = sum(c for c, _ in known), sum(p for _, p in known)
    return Tokens(
        prompt=sum(prompts) if prompts else None,
        output=sum(o.output_tokens for o in good),
        cached=cached if known else None,
        cached_share=cached / whole if known else None,
    )


def meets(outcome: Outcome, targets: TargetsConfig) -> bool:
    """Answered whole, within every target that is set; an answer of one token has no TPOT to miss."""
    ttft_s, tpot_s = outcome.ttft_s, outcome.tpot_s
    fast = not targets.ttft_s or (ttft_s is not None and ttft_s <= targets.ttft_s)
    steady = not targets.tpot_s or tpot_s is None or tpot_s <= targets.tpot_s
    return outcome.good and fast and steady


def goodput(outcomes: Sequence[Outcome], targets: TargetsConfig, seconds: float) -> Goodput | None:
    """None without a target. What an interruption cut off is neither met nor missed."""
    if not (targets.ttft_s or targets.tpot_s):
        return None
    judged = [o for o in outcomes if o.error != UNFINISHED]
    met = sum(meets(o, targets) for o in judged)
    share = met / len(judged) if judged else 0.0
    return Goodput(1e3 * targets.ttft_s, 1e3 * targets.tpot_s, met, share, met / seconds)


def failures(outcomes: Sequence[Outcome]) -> tuple[Failures, ...]:
    """Kinds of errors, the most frequent first."""
    bad = [o for o in outcomes if o.error not in ("", UNFINISHED)]
    counts = Counter(o.error for o in bad)
    examples = {o.error: o.message for o in reversed(bad)}
    return tuple(Failures(kind, n, examples[kind]) for kind, n in counts.most_common())


def running_over_time(outcomes: Sequence[Outcome]) -> tuple[Array, NDArray[np.int64]]:
    """Moments at which the number of requests under way changes, and the number from each on."""
    moments = np.array([[o.started_s, o.finished_s] for o in outcomes]).reshape(-1)
    change = np.tile([1, -1], len(outcomes))
    # An end comes before a start at the same moment: nothing overlaps there.
    order = np.lexsort((change, moments))
    return moments[order], np.cumsum(change[order])
