"""What a target for the time between tokens (TPOT) lets in, and what other targets would: the
operator's view of `scheduler`'s own rule, by the step times it goes by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from silva.control.slo import StepTime, Trade, largest_batch, trade
from silva.control.state import State

OFFERED_S = (0.05, 0.03, 0.015)
"""Targets that are always shown, beside the one that is set and none at all."""


@dataclass(frozen=True)
class Admission:
    """One peer, or several together, at one moment."""

    target_s: float
    """The target that is set; 0: none."""
    batch: int
    """Requests that are let decode together, as long as they attend to `context_tokens` each."""
    tpot_s: float
    """Measured seconds between the tokens of a request, of late; 0: nothing was generated yet."""
    context_tokens: float = 0.0
    """Mean context of the requests that decode, or decoded last; 0: none did."""
    trades: tuple[Trade, ...] = ()
    """What each target allows at that context, the widest first: no target (0), `OFFERED_S` and
    `target_s`. Batches that were never run are extrapolated. Empty before anything has decoded.
    """


def mean_context(state: State) -> float:
    """Tokens that a decoding request attends to, on average; 0 when none decodes."""
    return state.context_tokens / state.decoding if state.decoding else 0.0


def admitted(state: State, step_time: StepTime, context_tokens: float) -> int:
    """Most requests of this context that are let decode together: one is always let in.

    Without target, or where the context is not known (0), as many as the settings say.
    """
    settings = state.settings
    if settings.step_s is None or not context_tokens:
        return settings.max_running
    return max(1, largest_batch(step_time, settings.step_s, context_tokens, settings.max_running))


def admission(
    state: State, step_time: StepTime, tpot_s: float, before: Admission | None = None
) -> Admission:
    """As the state is now; `before` still tells of contexts when nothing decodes any more.

    `tpot_s` is what was measured.
    """
    settings = state.settings
    context = mean_context(state) or (before.context_tokens if before else 0.0)
    known = context > 0 and step_time.seconds(1, int(context), 0) > 0
    return Admission(
        settings.target_s or 0.0,
        admitted(state, step_time, context),
        tpot_s,
        context,
        _trades(state, step_time, context) if known else (),
    )


def together(parts: Iterable[Admission]) -> Admission | None:
    """Several peers of one role: batches and rates are summed, times are those of the slowest."""
    held = tuple(parts)
    if not held:
        return None
    seen = [part for part in held if part.trades]
    contexts = [part.context_tokens for part in seen]
    return Admission(
        held[0].target_s,
        sum(part.batch for part in held),
        max(part.tpot_s for part in held),
        sum(contexts) / len(contexts) if contexts else 0.0,
        tuple(_sum(rows) for rows in zip(*(part.trades for part in seen), strict=True)),
    )


def _trades(state: State, step_time: StepTime, context: float) -> tuple[Trade, ...]:
    settings = state.settings
    own = {settings.target_s} if settings.target_s else set()
    targets = (math.inf, *sorted({*OFFERED_S, *own}, reverse=True))
    aimed = [settings.aim * target_s for target_s in targets]
    rows = trade(step_time, aimed, context, settings.max_running, settings.step_tokens)
    # infinity has no place in JSON
    shown = (0.0, *targets[1:])
    return tuple(replace(row, target_s=s) for row, s in zip(rows, shown, strict=True))


def _sum(rows: tuple[Trade, ...]) -> Trade:
    """One target, over peers."""
    return Trade(
        rows[0].target_s,
        sum(row.batch for row in rows),
        max(row.tpot_s for row in rows),
        sum(row.tokens_per_s for row in rows),
        sum(row.chunk_tokens for row in rows),
    )
