"""Where the time of an engine went: what the status of a peer shows of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from silva.control.slo import Load


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
    _before: tuple[float, Load, int] | None = field(default=None, repr=False)
    """Start, work and right guesses of the last step, until it has ended."""

    def turn(self, now_s: float) -> tuple[Load, float] | None:
        """A step begins, or is looked for: what came before it belongs to the one before.

        Returns the work and the seconds of that one, once.
        """
        if self._before is None:
            return None
        (start_s, load, right), self._before = self._before, None
        step_s = now_s - start_s
        self.step_s += step_s
        if load.decoding:
            tpot_s = step_s * load.decoding / (load.decoding + right)
            self.tpot_s += (tpot_s - self.tpot_s) / (_LATE if self.tpot_s else 1)
        return load, step_s

    def computed(
        self, start_s: float, execute_s: float, model_s: float, load: Load, right: int = 0
    ) -> None:
        """The step that began at `start_s` was computed; `model_s`: in the model, of all steps.

        It gave a token to each request of `load` that decodes, and `right` guessed ones beside.
        """
        self._before = start_s, load, right
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
