"""Whether a pass is computed as one microbatch or as two that overlap: what was faster so far.

Two microbatches hide what one waits for behind what the other computes (arXiv 2506.12708, section
4.2.3), and read all weights twice. Which of it counts for more depends on batch, contexts and wire,
so it is measured: while one form is usual, the other one is tried now and then, and becomes usual
when it was faster. Trials have a budget: what is lost in them stays a small share of the time.

    rule = OverlapRule()
    rule.splits(3)                      # for a pass of this kind and size
    rule.observe(3, True, 0.012)        # it was split, and took so many seconds
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

SHARE = 0.01
"""Of the time of usual passes: what may be lost in trials."""
GAIN, KEEP = 0.05, 0.02
"""What splitting has to save before it becomes usual, and to stay so: no measurement is exact."""
NEIGHBOURS, TRIALS = 5, 5
"""A trial is compared with the median of so many usual passes before it; so many trials decide."""
FEAR, FLOOR = 1.0, 0.1
"""What the first trial may lose, as a share of a pass, and what any may, whatever the last one did."""
PATIENCE = 3
"""While trials lose, each waits for twice the budget of the one before, so many times."""


@dataclass
class _Class:
    """What is known of passes of one kind and size."""

    split: bool = False
    """Whether that is the usual form."""
    usual: deque[float] = field(default_factory=lambda: deque(maxlen=NEIGHBOURS))
    """Seconds of the last passes in it."""
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=TRIALS))
    """Seconds of a split pass over those of a whole one, one of them a trial."""
    losing: int = 0
    """Trials in a row that lost."""
    budget_s: float = 0.0
    """For trials."""

    def price_s(self) -> float:
        """The budget that a trial asks for; infinite while there is nothing to compare it with."""
        if len(self.usual) < NEIGHBOURS:
            return math.inf
        fear = FEAR
        if self.ratios:
            last = self.ratios[-1]
            fear = max(FLOOR, (1 / last if self.split else last) - 1)
        return statistics.median(self.usual) * fear * 2**self.losing

    def observe(self, split: bool, seconds: float) -> None:
        if split is self.split:
            self.usual.append(seconds)
            # No more than one trial's: when conditions change, the next ones should not come at once.
            self.budget_s = min(self.price_s(), self.budget_s + SHARE * seconds)
        elif len(self.usual) == NEIGHBOURS:
            self._compare(split, seconds)

    def _compare(self, split: bool, seconds: float) -> None:
        usual = statistics.median(self.usual)
        lost = seconds > usual
        self.budget_s -= self.price_s() if lost else FLOOR * usual
        self.losing = min(PATIENCE, self.losing + 1) if lost else 0
        self.ratios.append(seconds / usual if split else usual / seconds)
        if len(self.ratios) < TRIALS:
            return
        better = statistics.median(self.ratios) < 1 - (KEEP if self.split else GAIN)
        if better is not self.split:
            self.split, self.losing = better, 0
            self.usual.clear()
            self.ratios.clear()


class OverlapRule:
    """Decides for passes by class, a number for each kind and size. Pure: seconds are told."""

    def __init__(self) -> None:
        self._classes: defaultdict[int, _Class] = defaultdict(_Class)

    @property
    def kinds(self) -> Collection[int]:
        """The classes of which something is known; of others no pass is split."""
        return self._classes.keys()

    def splits(self, kind: int) -> bool:
        """Whether the next pass of this class should be split; a trial where there is budget."""
        known = self._classes[kind]
        return known.split is not (known.budget_s >= known.price_s())

    def observe(self, kind: int, split: bool, seconds: float) -> None:
        """A pass of this class took so long, split or not, whoever decided that."""
        self._classes[kind].observe(split, seconds)
