"""Queues of a cluster over time, in a number of samples that stays bounded however long it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from silva.control.state import Counts
from silva.supernode.records import Sample

MAX_SAMPLES = 1 << 16
"""When there are so many, two beside each other become one: that with the longer queue, with the
larger share of memory of both. What is the largest of all samples stays so.
"""


class Sampler:
    """Appends to a list of samples; `due_s` is when the next one is taken."""

    def __init__(self, samples: list[Sample], every_s: float) -> None:
        self.samples, self.due_s, self._every_s = samples, 0.0, every_s

    def take(self, until_s: float, counts: Iterable[Counts], homeless: int) -> None:
        """Samples up to the next event, until which nothing changes; none after the last one.

        `counts` are those of the instances that are up: others hold nothing, and offer no memory.
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
                samples[:] = [_one(*pair) for pair in pairs]
                self._every_s *= 2


def _one(first: Sample, second: Sample) -> Sample:
    longer = second if second.waiting > first.waiting else first
    return replace(longer, kv_share=max(first.kv_share, second.kv_share))
