"""A `StepTime` that learns from the steps a server has run.

seconds = a + b * decoding + c * context tokens + d * prefill tokens, none of them negative, fitted
by recursive weighted least squares that forgets slowly. Residuals are relative, so that a short
decode step counts as much as a long chunk, and those far out count less (Huber), so that a pause of
the machine does not move the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from silva.control.slo import LinearStepTime

_UNITS = (1.0, 16.0, 16384.0, 512.0)
"""What the four terms are counted in, so that their coefficients are of like size."""
_HUBER = 2.0
"""Residuals beyond this many typical ones are outliers."""
_WARM = 8
"""So many steps are weighed alike: before that, nothing is known about what is typical."""
_SWEEPS = 8
_EVERY = 8
"""Once so many times `_WARM` steps were seen the fit is renewed only every so many steps."""


@dataclass(frozen=True)
class Fit:
    """How well the model agrees with the steps seen."""

    steps: int
    typical_error: float
    """Typical relative residual of late, 0.1 = 10 %."""


class MeasuredStepTime:
    """Fits itself by `observe`; before the first step it answers with `prior`.

    prior     what to believe of terms that no step has shown yet
    memory    steps after which an observation counts 1 / e; a machine that becomes slower or
              faster is followed within about this many steps
    """

    def __init__(self, prior: LinearStepTime | None = None, memory: int = 500) -> None:
        if memory < 10:
            raise ValueError(f"memory must be at least 10 steps, but is {memory}")
        start = prior or LinearStepTime(0.0)
        self._x = [
            coefficient * unit
            for coefficient, unit in zip(
                (start.step_s, start.request_s, start.context_token_s, start.prefill_token_s),
                _UNITS,
                strict=True,
            )
        ]
        self._prior = tuple(self._x)
        self._forget = 1.0 - 1.0 / memory
        self._a = [[0.0] * 4 for _ in range(4)]
        self._b = [0.0] * 4
        self._steps = 0
        self._typical = 0.0

    @property
    def fit(self) -> Fit:
        """How much was learned, and how far the last steps were from it."""
        return Fit(self._steps, self._typical)

    @property
    def coefficients(self) -> LinearStepTime:
        """The fit as it stands, a frozen copy."""
        step, request, context, prefill = (
            x / unit for x, unit in zip(self._x, _UNITS, strict=True)
        )
        return LinearStepTime(step, request, context, prefill)

    def seconds(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        return self._predict(_row(decoding, context_tokens, prefill_tokens))

    def observe(
        self, decoding: int, context_tokens: int, prefill_tokens: int, seconds: float
    ) -> None:
        """Learn from one step that took `seconds`; times that are not positive are ignored."""
        if not 0.0 < seconds < float("inf"):
            return
        row = _row(decoding, context_tokens, prefill_tokens)
        weight = self._weigh(row, seconds)
        for i in range(4):
            line = self._a[i]
            for j in range(4):
                line[j] = self._forget * line[j] + weight * row[i] * row[j]
            self._b[i] = self._forget * self._b[i] + weight * row[i] * seconds
        self._steps += 1
        if self._steps < _EVERY * _WARM or self._steps % _EVERY == 0:
            self._solve()

    def _weigh(self, row: tuple[float, ...], seconds: float) -> float:
        """1 / scale^2, less for an outlier, and update of what a typical residual is."""
        predicted = self._predict(row)
        if self._steps < _WARM or predicted <= 0.0:
            # Dividing by the measured time keeps an early pause, which is long, from counting much.
            if self._steps and predicted > 0.0:
                error = abs(seconds - predicted) / max(seconds, predicted)
                self._typical += (error - self._typical) / (self._steps + 1)
            return 1.0 / (seconds * seconds)
        error = abs(seconds - predicted) / predicted
        bound = _HUBER * max(self._typical, 0.01)
        # A lasting change is believed in the end: the bound grows by a share of each residual, but
        # one huge residual moves it no more than one at the bound does.
        self._typical += 0.05 * (min(error, bound) - self._typical)
        return min(1.0, bound / error if error > 0.0 else 1.0) / (predicted * predicted)

    def _predict(self, row: tuple[float, ...]) -> float:
        x = self._x
        return x[0] * row[0] + x[1] * row[1] + x[2] * row[2] + x[3] * row[3]

    def _solve(self) -> None:
        """A few sweeps of coordinate descent under x >= 0, from the last solution on.

        A small pull towards the prior settles what the steps seen do not tell apart.
        """
        for _ in range(_SWEEPS):
            for i in range(4):
                line = self._a[i]
                pull = 1e-6 * (1.0 + self._a[0][0])
                rest = self._b[i] + pull * self._prior[i]
                for j in range(4):
                    if j != i:
                        rest -= line[j] * self._x[j]
                self._x[i] = max(0.0, rest / (line[i] + pull))


def _row(decoding: int, context_tokens: int, prefill_tokens: int) -> tuple[float, ...]:
    return (
        1.0,
        decoding / _UNITS[1],
        context_tokens / _UNITS[2],
        prefill_tokens / _UNITS[3],
    )
