"""Which passes are split in two microbatches: what the votes say of it, and what it costs.

The rank that leads says for which sizes it should be done; the size of a pass is known when all have
voted. All ranks split it or none does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from silva.control.overlap import OverlapRule
from silva.experts.board import Vote
from silva.experts.shape import GroupShape, Pass

SIZES = 16
"""Passes with twice as many tokens are of another size."""
ALL = 2**32 - 1


def split_bit(kind: Pass, tokens: int) -> int:
    """The number of a pass's bit in `Vote.split`, by the tokens of all ranks; at least one."""
    return (kind - 1) * SIZES + min(SIZES, tokens.bit_length()) - 1


class Splitting:
    """Of one rank."""

    def __init__(self, shape: GroupShape, clock: Callable[[], float] = time.perf_counter) -> None:
        self.overlap = shape.overlap
        """May be changed, on all ranks, where they have two lanes; else nothing is split."""
        self.now = False
        """Whether the pass that was agreed on is split."""
        self._able, self._most = len(shape.lanes) > 1, shape.buffers.local_batch
        self._rule, self._clock = OverlapRule(), clock
        self._bit, self._began_s = 0, 0.0

    def wish(self) -> int:
        """As the rank that leads: see `Vote.split`."""
        if not self._able or self.overlap == "off":
            return 0
        if self.overlap == "on":
            return ALL
        return sum(1 << bit for bit in self._rule.kinds if self._rule.splits(bit))

    def agree(self, kind: Pass, votes: Mapping[int, Vote], wish: int) -> None:
        """A pass begins; `wish` is that of the rank that leads."""
        self.now = False
        if kind is Pass.NONE:
            return
        given = [vote for vote in votes.values() if vote.wants == kind]
        self._bit = split_bit(kind, sum(vote.tokens for vote in given) or 1)
        # Each half has to go in one round: the others are not asked whether there are more.
        fits = max(vote.tokens for vote in given) <= self._most
        able = self._able and fits and any(vote.halves for vote in given)
        self.now = able and bool(wish >> self._bit & 1)
        self._began_s = self._clock()

    def finished(self) -> None:
        """The pass is computed, and this rank has all answers."""
        self._rule.observe(self._bit, self.now, self._clock() - self._began_s)
