"""Where the time of an engine went: what the status of a peer shows of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Spent:
    """Totals since the start. Written by the engine's thread, read by any."""

    steps: int = 0
    """Steps that computed something."""
    step_s: float = 0.0
    """Of those, from the start of the step to whatever the thread does next: the owner's work too."""
    execute_s: float = 0.0
    """Of that, in the runner: model and sampling."""
    model_s: float = 0.0
    """Of that, in the model."""
    preempted: int = 0
    """Requests that gave their blocks to others and were computed again."""
    drafted: int = 0
    """Guessed tokens that were computed."""
    accepted: int = 0
    """Of those, the right ones: each saved its request a step."""
    tpot_s: float = 0.0
    """Seconds from one token of a request to its next, of late; no total."""
    _since_s: float | None = field(default=None, repr=False)
    _each: float = field(default=0.0, repr=False)
    """Tokens that the last step gave to each request that decoded, on average; 0: none did."""

    def turn(self, now_s: float) -> float | None:
        """A step begins, or is looked for: what came before it belongs to the one before.

        Returns the seconds of that one, once.
        """
        if self._since_s is None:
            return None
        step_s, self._since_s = now_s - self._since_s, None
        self.step_s += step_s
        if self._each:
            tpot_s = step_s / self._each
            self.tpot_s += (tpot_s - self.tpot_s) / (_LATE if self.tpot_s else 1)
        return step_s

    def computed(
        self, start_s: float, execute_s: float, model_s: float, decoding: int = 0, right: int = 0
    ) -> None:
        """The step that began at `start_s` was computed; `model_s`: in the model, of all steps.

        It gave a token to each of `decoding` requests, and `right` guessed ones beside.
        """
        self._since_s = start_s
        self._each = (decoding + right) / decoding if decoding else 0.0
        self.accepted += right
        self.steps += 1
        self.execute_s += execute_s
        self.model_s = model_s

    def told(self) -> Mapping[str, float]:
        """As a peer reports it."""
        return {name: getattr(self, name) for name in NAMES}


_LATE = 16
"""So many steps are "of late"."""

NAMES = ("steps", "step_s", "execute_s", "model_s", "preempted", "drafted", "accepted")
