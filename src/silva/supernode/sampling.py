"""Queues of a cluster over time, in a number of samples that stays bounded however long it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable

from silva.control.state import Counts
from silva.supernode.records import Sample

MAX_SAMPLES = 1 << 16
"""Of two samples beside each other, the one with the longer queue stays when there are so many."""


class Sampler:
    """Appends to a list of samples; `due_s` is when the next one is taken."""

    def __init__(self, samples: list[Sample], every_s: float) -> None:
        self.samples, self.due_s, self._every_s = samples, 0.0, every_s

    def take(self, until_s: float, counts: Iterable[Counts], homeless: int) -> None:
        """Samples up to the next event, until which nothing changes; none after the last one.

        `homeless` requests wait for an instance. Where samples become too many, half as many are
        taken from there on.
        """
        if until_s == math.inf:
            return
        every = list(counts)
        waiting = sum(each.waiting for each in every) + homeless
        running = sum(each.running for each in every)
        coming = sum(each.coming + each.held for each in every)
        blocks = sum(each.blocks for each in every)
        kv_share = sum(each.blocks_used for each in every) / max(1, blocks)
        samples = self.samples
        while self.due_s <= until_s:
            samples.append(Sample(self.due_s, waiting, running, coming, kv_share))
            self.due_s += self._every_s
            if len(samples) >= MAX_SAMPLES:
                pairs = zip(samples[::2], samples[1::2], strict=True)
                samples[:] = [max(pair, key=lambda each: each.waiting) for pair in pairs]
                self._every_s *= 2
