"""How much fits into a step that must hold a target for the time between tokens (TPOT).

A running request is given one token a step, so the step's seconds are its TPOT. The model of them
is behind the protocol `StepTime`: measured in the server (`silva.control.measured`), analytic in
the simulator. It must not fall when a step gets more work, or the answers here mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

AIM = 0.95
"""Share of a target that server and simulator plan steps for. Half of a server's steps take longer
than expected, and a request also waits between its two peers.
"""


class Load(NamedTuple):
    """The work of one step, in the order of `StepTime.seconds`."""

    decoding: int
    """Requests that are given one token each."""
    context_tokens: int
    """Tokens that those attend to, over all of them."""
    prefill_tokens: int
    """Positions of prompts that are computed."""


class StepTime(Protocol):
    """Predicts how long a step takes. Pure and deterministic between two observations."""

    def seconds(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        """Seconds of a step with this `Load`; does not fall with any of the three."""
        ...


@dataclass(frozen=True)
class LinearStepTime:
    """Every unit of work costs the same: a fair model of one device within a batch's usual range."""

    step_s: float
    request_s: float = 0.0
    context_token_s: float = 0.0
    prefill_token_s: float = 0.0

    def seconds(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        return (
            self.step_s
            + self.request_s * decoding
            + self.context_token_s * context_tokens
            + self.prefill_token_s * prefill_tokens
        )


def largest_batch(step_time: StepTime, target_s: float, context_tokens: float, most: int) -> int:
    """Most requests, of `context_tokens` each on average, whose decode step is within the target.

    0 when even one takes longer; never more than `most`.
    """
    return _largest(
        most, lambda batch: step_time.seconds(batch, int(batch * context_tokens), 0) <= target_s
    )


def largest_chunk(
    step_time: StepTime, target_s: float, decoding: int, context_tokens: int, most: int
) -> int:
    """Most prompt positions that a step can compute beside `decoding` requests, which attend to
    `context_tokens` in all, within the target.

    0 when the target is missed already; never more than `most`.
    """
    return _largest(
        most, lambda chunk: step_time.seconds(decoding, context_tokens, chunk) <= target_s
    )


@dataclass(frozen=True)
class Trade:
    """What a TPOT target costs: the batch that holds it and what that yields."""

    target_s: float
    batch: int
    """Largest decode batch within the target; 0: the target cannot be held."""
    tpot_s: float
    """Predicted seconds between tokens at that batch (at batch 1 where it cannot be held)."""
    tokens_per_s: float
    """Tokens given out a second, over the whole batch; 0 where the target cannot be held."""
    chunk_tokens: int
    """Prompt positions that still fit beside the full batch within the target."""


def trade(
    step_time: StepTime,
    targets_s: Iterable[float],
    context_tokens: float,
    most_batch: int,
    most_chunk: int = 0,
) -> tuple[Trade, ...]:
    """The operator's choice: one row for each target, in the order given.

    `context_tokens` is the mean context of a running request; `most_batch` and `most_chunk` are the
    engine's own limits (`Settings.max_running`, `Settings.step_tokens`).
    """
    rows = []
    for target_s in targets_s:
        batch = largest_batch(step_time, target_s, context_tokens, most_batch)
        shown = max(batch, 1)
        context = int(shown * context_tokens)
        tpot_s = step_time.seconds(shown, context, 0)
        chunk = largest_chunk(step_time, target_s, shown, context, most_chunk) if batch else 0
        rate = batch / tpot_s if tpot_s > 0 else 0.0
        rows.append(Trade(target_s, batch, tpot_s, rate, chunk))
    return tuple(rows)


def _largest(most: int, holds: Callable[[int], bool]) -> int:
    """The largest n in [0, most] for which `holds(1..n)`; `holds` turns false once at most."""
    if most <= 0 or not holds(1):
        return 0
    if holds(most):
        return most
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
