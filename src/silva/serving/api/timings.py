"""Where the time of one answer went, from the phases that the backend reports."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from silva.control.request import Phases

HEADER = "x-silva-timings"


class TokenClock:
    """When the tokens of one answer came, in seconds on the clock of the front."""

    def __init__(self, arrival_s: float) -> None:
        self.arrival_s = arrival_s
        self.tokens_s: list[float] = []

    def note(self, now_s: float, tokens: int) -> None:
        """So many tokens came now."""
        self.tokens_s.extend([now_s] * tokens)

    @property
    def first_s(self) -> float | None:
        """From arrival to the first token."""
        return self.tokens_s[0] - self.arrival_s if self.tokens_s else None

    @property
    def gaps_s(self) -> Sequence[float]:
        """Between each token and the one before."""
        return [later - earlier for earlier, later in pairwise(self.tokens_s)]


def durations_s(phases: Phases) -> dict[str, float]:
    """Seconds in "queue", "prefill", "transfer" and "first_decode", as far as they are known."""
    points = {
        "queue": (phases.arrival_s, phases.prefill_start_s),
        "prefill": (phases.prefill_start_s, phases.prefill_done_s),
        "transfer": (phases.prefill_done_s, phases.joined_s),
        "first_decode": (phases.joined_s, phases.first_decode_s),
    }
    return {
        name: max(0.0, stop - start)
        for name, (start, stop) in points.items()
        if start is not None and stop is not None
    }


def timings(phases: Phases, clock: TokenClock, now_s: float) -> dict[str, Any]:
    """`choices[].timings`: milliseconds; a phase that did not happen is null."""
    known = durations_s(phases)
    return {
        **{
            f"{name}_ms": _ms(known.get(name))
            for name in ("queue", "prefill", "transfer", "first_decode")
        },
        "first_token_ms": _ms(clock.first_s),
        "inter_token_ms": [_ms(gap) for gap in clock.gaps_s],
        "total_ms": _ms(now_s - clock.arrival_s),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
