"""What all ranks of a group have in common, and what each of them brings into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from silva.experts.board import BoardShape, Vote
from silva.experts.meeting import Card
from silva.experts.memory import OwnMemory
from silva.experts.sizes import LINE_BYTES, BufferSizes

Overlap = Literal["auto", "on", "off"]
"""Whether passes are split in two that overlap: where that was found to be faster, always, never."""


class Pass(IntEnum):
    """What is computed between two votes. The later one goes first where ranks want both."""

    NONE = 0
    HIDDEN = 1
    DRAFT = 2


@dataclass(frozen=True)
class GroupShape:
    """What all ranks of a group must have in common."""

    buffers: BufferSizes
    layers: Mapping[Pass, tuple[int, ...]]
    """The layers with experts that each pass goes through, by their numbers in the model."""
    experts: int
    """In each of these layers."""
    rebalance_s: float = 60.0
    """Seconds between two looks at the load; 0: experts stay where they are."""
    overlap: Overlap = "off"

    @property
    def lanes(self) -> tuple[BufferSizes, ...]:
        """The buffers of each lane (silva.experts.lanes): the second one is for half the tokens."""
        if self.overlap == "off":
            return (self.buffers,)
        return self.buffers, replace(self.buffers, local_batch=-(-self.buffers.local_batch // 2))

    @property
    def second(self) -> int:
        """Where in a rank's memory the second lane begins, in bytes."""
        return -(-self.buffers.total // LINE_BYTES) * LINE_BYTES

    @property
    def memory(self) -> int:
        """Bytes of one rank's memory, all lanes."""
        return self.second + self.lanes[1].total if len(self.lanes) > 1 else self.buffers.total

    @property
    def numbers(self) -> tuple[int, ...]:
        """All layers with experts, ascending; on boards they are counted in this order."""
        return tuple(sorted(n for layers in self.layers.values() for n in layers))

    @property
    def board(self) -> BoardShape:
        sizes = self.buffers
        return BoardShape(sizes.ranks, sizes.slots, len(self.numbers), self.experts)


@dataclass
class Place:
    """What a rank brings into its group, and what it was told where it joins a running one."""

    buffers: OwnMemory
    board: OwnMemory
    cards: Mapping[int, Card]
    tables: NDArray[np.int64]
    """Where experts are [layers, ranks, slots]."""
    number: int = 0
    """Of the last vote that it had no part in."""
    known: Vote = field(default_factory=Vote)
