"""A server under load beside its model: the same trace to both, in turn, and how far they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from silva.errors import RunError
from silva.models.llama_config import read_config
from silva.reality.process import serving
from silva.reality.profile import Target
from silva.reality.trace import TraceConfig, asked, bench_config, check_lengths, rate_for
from silva.reality.twin import Answered, Twin
from silva.serving.api.timings import durations_s
from silva.serving.bench.nouns import Outcome
from silva.serving.bench.run import Measured, Progress, run
from silva.serving.make_engine import settings_for
from silva.supernode.profile import Profile

BAR = 0.10
"""Of medians and throughput; of 99th percentiles twice as much. The measured spread where larger."""
PHASES = ("queue", "prefill", "transfer", "first_decode")
FIGURES = {
    "ttft_p50_ms": ("median time to the first token", "ms", 1.0),
    "tpot_p50_ms": ("median time a further token", "ms", 1.0),
    "output_tokens_per_s": ("answer tokens a second", "1/s", 1.0),
    "ttft_p99_ms": ("99th percentile to the first token", "ms", 2.0),
    "tpot_p99_ms": ("99th percentile a further token", "ms", 2.0),
}
"""What is judged: in words, unit, and how many times the bar is allowed."""


@dataclass(frozen=True)
class Seen:
    """One request, of either side. Milliseconds from the moment it was due."""

    prompt_tokens: int
    output_tokens: int
    tokens_ms: tuple[float, ...]
    phases_ms: dict[str, float]

    @property
    def tpot_ms(self) -> float:
        """Mean time of a token after the first; NaN for answers of one."""
        if len(self.tokens_ms) < 2:
            return float("nan")
        return (self.tokens_ms[-1] - self.tokens_ms[0]) / (len(self.tokens_ms) - 1)


@dataclass(frozen=True)
class Side:
    """What came of the trace once, measured or simulated."""

    figures: dict[str, float]
    phases_ms: dict[str, float]
    """Medians over requests; "token": of the gaps between tokens after the second."""
    requests: list[Seen]


@dataclass(frozen=True)
class Turn:
    """Both sides once."""

    measured: Side
    simulated: Side
    failed: int
    """Requests that the server did not answer whole."""


@dataclass(frozen=True)
class Verdict:
    """One figure over all turns: medians, the relative difference, and how much is allowed."""

    name: str
    measured: float
    simulated: float
    error: float
    spread: float
    """Largest distance of a measured turn from the measured median, relative."""
    simulated_spread: float
    bar: float

    @property
    def holds(self) -> bool:
        """Whether the model is near enough."""
        return abs(self.error) <= self.bar


@dataclass
class Comparison:
    """All turns and what they say."""

    rate: float
    trace: TraceConfig
    turns: list[Turn] = field(default_factory=list)

    @property
    def verdicts(self) -> list[Verdict]:
        """One for each of FIGURES."""
        return [self._verdict(name) for name in FIGURES]

    @property
    def holds(self) -> bool:
        """Whether every figure does, and every request was answered."""
        answered = not any(turn.failed for turn in self.turns)
        return answered and all(verdict.holds for verdict in self.verdicts)

    def phases(self) -> dict[str, tuple[float, float]]:
        """Medians of each phase over the turns: measured, simulated, in milliseconds."""
        return {
            name: (
                _median([turn.measured.phases_ms[name] for turn in self.turns]),
                _median([turn.simulated.phases_ms[name] for turn in self.turns]),
            )
            for name in (*PHASES, "token")
        }

    def as_plain(self) -> dict[str, Any]:
        """Plain JSON types."""
        verdicts = [{**asdict(each), "holds": each.holds} for each in self.verdicts]
        phases = {
            name: {"measured_ms": measured, "simulated_ms": simulated}
            for name, (measured, simulated) in self.phases().items()
        }
        return {
            "rate": self.rate,
            "trace": asdict(self.trace),
            "holds": self.holds,
            "figures": verdicts,
            "phases": phases,
            "turns": [asdict(turn) for turn in self.turns],
        }

    def _verdict(self, name: str) -> Verdict:
        measured = [turn.measured.figures[name] for turn in self.turns]
        simulated = [turn.simulated.figures[name] for turn in self.turns]
        real, model = _median(measured), _median(simulated)
        spread = _spread(measured)
        bar = FIGURES[name][2] * max(BAR, spread)
        error = model / real - 1 if real else 0.0  # no answer has a second token
        return Verdict(name, real, model, error, spread, _spread(simulated), bar)


def compare(
    target: Target,
    profile: Profile,
    trace: TraceConfig,
    turns: int,
    watch: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Serve and simulate a trace, so many times in turn; each time a new server with an empty cache.

    Raises ConfigError, RunError and ServingError.
    """
    pools, model = target.config.pools, read_config(target.path)
    rate = rate_for(trace, profile, pools.prefill)
    found = Comparison(rate, trace)
    for number in range(turns):
        watch(f"turn {number + 1} of {turns}: the server starts")
        with serving(target.arguments, target.peers) as server:
            bench = bench_config(trace, rate, server.url, model.vocab_size)
            settings = settings_for(target.config, server.blocks, model.context)
            check_lengths(trace, rate, settings.context_tokens)

            def told(progress: Progress, number: int = number) -> None:
                done = f"{progress.done} of {progress.total}" if progress.total else progress.stage
                watch(f"turn {number + 1} of {turns}: {progress.stage}, {done}")

            measured = asyncio.run(run(bench, on_progress=told))
        watch(f"turn {number + 1} of {turns}: simulating")
        twin = Twin(profile, target.config, settings, seed=number)
        found.turns.append(turn_of(measured, twin.run(asked(bench))))
    return found


def turn_of(measured: Measured, simulated: Sequence[Answered]) -> Turn:
    """Both sides of one trace."""
    outcomes = sorted(measured.outcomes, key=lambda outcome: outcome.planned.index)
    good = [outcome for outcome in outcomes if outcome.good]
    if not good:
        raise RunError("the server answered no request of the trace", remedy="ask for less")
    ends_s = [answer.tokens_s[-1] for answer in simulated]
    return Turn(
        measured=_side([_seen(outcome) for outcome in good], measured.elapsed_s),
        simulated=_side([_predicted(answer) for answer in simulated], max(ends_s)),
        failed=len(outcomes) - len(good),
    )


def table(found: Comparison) -> str:
    """The comparison as text."""
    heads = ("", "measured", "spread", "simulated", "spread", "error", "bar")
    lines = [_line(heads)]
    for each in found.verdicts:
        text, unit, _ = FIGURES[each.name]
        note = "" if each.holds else "  DOES NOT HOLD"
        cells = (
            f"{text} [{unit}]",
            f"{each.measured:,.1f}",
            f"{each.spread:.1%}",
            f"{each.simulated:,.1f}",
            f"{each.simulated_spread:.1%}",
            f"{each.error:+.1%}",
            f"{each.bar:.1%}",
        )
        lines.append(_line(cells) + note)
    lines += ["", _line(("phase, median [ms]", "measured", "", "simulated", "", "error", ""))]
    for name, (real, model) in found.phases().items():
        error = f"{model / real - 1:+.1%}" if real else ""
        lines.append(_line((name, f"{real:,.2f}", "", f"{model:,.2f}", "", error, "")))
    requests, failed = len(found.turns[0].simulated.requests), sum(t.failed for t in found.turns)
    verdict = "holds" if found.holds else "does not hold"
    turns = f"{len(found.turns)} turns of {requests} requests at {found.rate:g} a second"
    return "\n".join([*lines, "", f"{turns}, {failed} failed; {verdict}"])


def _side(requests: list[Seen], seconds: float) -> Side:
    first = [each.tokens_ms[0] for each in requests]
    more = [each.tpot_ms for each in requests if len(each.tokens_ms) > 1] or [0.0]
    tokens = sum(len(each.tokens_ms) for each in requests)
    phases = {name: _median([r.phases_ms.get(name) for r in requests]) for name in PHASES}
    gaps = [np.diff(each.tokens_ms[1:]) for each in requests if len(each.tokens_ms) > 2]
    phases["token"] = float(np.median(np.concatenate(gaps))) if gaps else 0.0
    figures = {
        "ttft_p50_ms": float(np.percentile(first, 50)),
        "ttft_p99_ms": float(np.percentile(first, 99)),
        "tpot_p50_ms": float(np.percentile(more, 50)),
        "tpot_p99_ms": float(np.percentile(more, 99)),
        "output_tokens_per_s": tokens / max(seconds, 1e-9),
    }
    return Side(figures, phases, requests)


def _seen(outcome: Outcome) -> Seen:
    told = {name: outcome.timings.get(f"{name}_ms") for name in PHASES}
    due = outcome.scheduled_s
    return Seen(
        outcome.planned.input_tokens,
        len(outcome.tokens_s),
        tuple(round((at - due) * 1e3, 3) for at in outcome.tokens_s),
        {name: value for name, value in told.items() if value is not None},
    )


def _predicted(answer: Answered) -> Seen:
    told = durations_s(answer.phases)
    due = answer.asked.at_s
    return Seen(
        len(answer.asked.prompt),
        len(answer.tokens_s),
        tuple(round((at - due) * 1e3, 3) for at in answer.tokens_s),
        {name: value * 1e3 for name, value in told.items()},
    )


def _median(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else 0.0


def _spread(values: Sequence[float]) -> float:
    middle = _median(values)
    return max(abs(value / middle - 1) for value in values) if middle else 0.0


def _line(cells: Sequence[str]) -> str:
    return (f"{cells[0]:<46}" + "".join(f"{cell:>11}" for cell in cells[1:])).rstrip()
