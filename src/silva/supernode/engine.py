"""One simulated instance: the server's own scheduler, and a clock instead of a runner.

While the same requests decode and nobody comes, steps are not simulated one by one: `quiet_steps`
says how many there are, and `advance` takes them together. Whoever comes in between interrupts the
run at the end of the step that is under way, as a server would.
"""

from __future__ import annotations

import math

from silva.control import scheduler
from silva.control.request import Chunk, Plan, StepResult
from silva.control.scheduler import Update
from silva.control.slo import StepTime
from silva.control.state import Settings, State


class Engine:
    """A scheduler with step times. Whoever starts it looks at `due_s` for when to `finish`."""

    def __init__(
        self,
        role: str,
        number: int,
        settings: Settings,
        times: StepTime,
        hands_over: bool = False,
    ) -> None:
        self.name, self.number = f"{role}-{number}", number
        self.settings, self.times = settings, times
        self.hands_over = hands_over
        self.takes_together = True
        """Whether quiet steps are taken together; the answers differ by rounding only."""
        self.busy_s = 0.0
        self.steps = 0
        self.generation = 0
        """Counts how often everything was lost."""
        self.back_s = 0.0
        """When it is back from the failures that are known of."""
        self.reset()

    def reset(self) -> None:
        """Forget everything, as after a restart."""
        self.state = State(self.settings)
        self.up = True
        self.due_s = math.inf
        """When the step under way ends; infinite while idle."""
        self.chunks: tuple[Chunk, ...] = ()
        """Prompts, or parts of them, that the step before this one computed."""
        self._plan: Plan | None = None
        self._run: tuple[float, int, float, float] | None = None

    def lose(self, now_s: float) -> None:
        """Everything is lost, and nothing is done until `reset`."""
        if self.due_s != math.inf:
            self.busy_s -= max(0.0, self.due_s - now_s)
        self.reset()
        self.up = False
        self.generation += 1

    def lengths(self) -> list[int]:
        """Known tokens of every request, in the order of the entries."""
        return [self.state.length_of(entry) for entry in self.state.entries.values()]

    def start(self, now_s: float) -> None:
        """Begin the next step if there is anything to do and none is under way."""
        if self.due_s != math.inf or not self.up:
            return
        state = self.state
        if self.takes_together:
            if state.joining:
                scheduler.settle(state)
            count = scheduler.quiet_steps(state)
            if count:
                self._start_run(now_s, count)
                return
        plan = scheduler.schedule(state, now_s, self.times)
        tokens = plan.tokens
        if tokens:
            self._plan = plan
            decoding = plan.decoding
            seconds = self.times.seconds(decoding, state.context_tokens, tokens - decoding)
            self.due_s = now_s + seconds
            self.busy_s += seconds

    def interrupt(self, now_s: float) -> bool:
        """Somebody is about to come: a run of quiet steps ends with the one that is under way.

        Called before the state is changed: what passed is advanced, the step under way is in
        flight. Returns whether `due_s` is another one now.
        """
        if self._run is None:
            return False
        start_s, count, first_s, slope = self._run
        steps = _steps_until(now_s - start_s, first_s, slope)
        if steps < 1:
            steps = 1
        elif steps > count:
            steps = count
        self._run = None
        self.steps += steps - 1
        self._plan = scheduler.begin(self.state, steps)
        if steps == count:
            return False
        before, self.due_s = self.due_s, start_s + _run_s(steps, first_s, slope)
        self.busy_s -= before - self.due_s
        return True

    def finish(self) -> Update:
        """The step or run under way has ended; `chunks` says what it computed of prompts."""
        self.due_s = math.inf
        if self._run is not None:
            count, self._run = self._run[1], None
            self.steps += count
            self.chunks = ()
            return scheduler.advance(self.state, count)
        plan = self._plan
        if plan is None:
            raise RuntimeError(f"{self.name} has no step under way")
        self._plan = None
        self.steps += 1
        self.chunks = plan.chunks
        return scheduler.update(self.state, StepResult(plan.step, 0.0))

    def _start_run(self, now_s: float, count: int) -> None:
        state, times = self.state, self.times
        decoding, context = state.decoding, state.context_tokens
        first = times.seconds(decoding, context, 0)
        slope = 0.0
        if count > 1:
            last = times.seconds(decoding, context + (count - 1) * decoding, 0)
            slope = (last - first) / (count - 1)
        self._run = (now_s, count, first, slope)
        seconds = count * first + slope * count * (count - 1) / 2
        self.due_s = now_s + seconds
        self.busy_s += seconds


def _run_s(steps: int, first_s: float, slope: float) -> float:
    """Seconds of so many steps, each `slope` longer than the one before."""
    return steps * first_s + slope * steps * (steps - 1) / 2


def _steps_until(passed_s: float, first_s: float, slope: float) -> int:
    """The first step whose end is not before `passed_s`."""
    if slope <= 1e-15 * first_s:
        return math.ceil(passed_s / first_s - 1e-9)
    half = first_s - slope / 2
    root = (math.sqrt(half * half + 2 * slope * passed_s) - half) / slope
    return math.ceil(root - 1e-9)
