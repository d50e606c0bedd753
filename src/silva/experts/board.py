"""What the ranks of a group tell each other between two passes, in shared memory beside the buffers.

    [odd or even][rank] vote                     written by that rank
    wake: number of a vote, whether it sleeps    by any rank; by the owner
    welcome                                      by the rank that leads
    proposal: number, layer                      by the rank that leads
    [ranks, slots] table of the proposal         by the rank that leads
    [layers, ranks, slots] tables                by the rank that leads, for one that joins
    [rank][layers, experts] tokens sent          written by that rank

All in words of 32 bits. `silva.experts.group` says what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from silva.experts.flags import WORD_BYTES, Flags
from silva.experts.memory import Memory
from silva.experts.sizes import LINE_BYTES

LINE = LINE_BYTES // WORD_BYTES
MOST_RANKS = 64
"""The dead of a group are bits of two words."""


class Vote(NamedTuple):
    """What one rank says before a pass."""

    wants: int = 0
    """The pass that it has tokens for; 0: none."""
    dead: int = 0
    """The ranks that it takes for dead, as bits."""
    round: int = 0
    """The last round of its exchange."""
    placement: int = 0
    """A checksum of where it thinks the experts are."""
    seen: int = 0
    """The last proposal that it knows of."""
    ready: int = 0
    """The last proposal whose experts it has loaded."""
    apply: int = 0
    """From the rank that leads: the proposal that holds from this pass on; 0: none."""
    admit: int = 0
    """From the rank that leads: one more than the rank that joins after this vote; 0: none."""
    member: int = 0
    """A checksum of the card of who joins."""
    tokens: int = 0
    """What the rank has for the pass that it wants."""
    halves: int = 0
    """1: it can split them in two halves."""
    split: int = 0
    """From the rank that leads: which passes are split, a bit for each size (`split_bit`)."""

    def words(self) -> list[int]:
        """As they are written."""
        return [self.wants, self.dead % 2**32, self.dead >> 32, *self[2:]]

    @classmethod
    def of(cls, words: Sequence[int]) -> Vote:
        """As they are read."""
        wants, low, high, *rest = words
        return cls(wants, low | high << 32, *rest)


WORDS = len(Vote().words())


@dataclass(frozen=True)
class BoardShape:
    """How large a board is: layers with experts, and what is in them."""

    ranks: int
    slots: int
    layers: int
    experts: int

    @property
    def table(self) -> int:
        """Words of one layer's placement."""
        return self.ranks * self.slots

    @property
    def head(self) -> int:
        """Words before the tables: votes, wake, welcome, proposal."""
        return (2 * self.ranks + 3) * LINE

    @property
    def size(self) -> int:
        """Bytes of one rank's board."""
        tables = (1 + self.layers) * self.table
        return WORD_BYTES * (self.head + tables + self.ranks * self.layers * self.experts)


class Board:
    """One rank's board, seen by itself or by another."""

    def __init__(self, memory: Memory, shape: BoardShape) -> None:
        self._memory, self._shape = memory, shape
        self._words: NDArray[np.uint32] = memory.bytes[: shape.size].numpy().view(np.uint32)
        rest = self._words[shape.head :]
        of_proposal, rest = rest[: shape.table], rest[shape.table :]
        of_layers, rest = rest[: shape.layers * shape.table], rest[shape.layers * shape.table :]
        place = (shape.ranks, shape.slots)
        self.proposed: NDArray[np.int32] = of_proposal.view(np.int32).reshape(place)
        """The table of the proposal."""
        self.tables: NDArray[np.int32] = of_layers.view(np.int32).reshape(shape.layers, *place)
        """For one that joins."""
        self.sent: NDArray[np.uint32] = rest.reshape(shape.ranks, shape.layers, shape.experts)
        """Tokens that each rank has sent to each expert so far, up to 2**32."""

    def _address(self, line: int) -> int:
        return self._memory.address + line * LINE_BYTES

    def vote_at(self, rank: int, number: int) -> int:
        """The address of what holds `number` once that vote of `rank` is here."""
        return self._address((number % 2) * self._shape.ranks + rank)

    def post_vote(self, flags: Flags, rank: int, number: int, vote: Vote) -> None:
        """As `rank`."""
        flags.post(self.vote_at(rank, number), [number, *vote.words()])

    def vote(self, rank: int, number: int) -> Vote | None:
        """That vote of `rank`, None while it is not here."""
        at = ((number % 2) * self._shape.ranks + rank) * LINE
        if int(self._words[at]) != number % 2**32:
            return None
        return Vote.of(self._words[at + 1 : at + 1 + WORDS].tolist())

    @property
    def bell(self) -> int:
        """The address of the word that changes when somebody begins a vote while the owner sleeps."""
        return self._address(2 * self._shape.ranks)

    @property
    def rung(self) -> int:
        """The number of the vote that the bell was rung for last."""
        return int(self._words[2 * self._shape.ranks * LINE])

    @property
    def sleeps(self) -> bool:
        """Whether the owner waits for its bell."""
        return bool(self._words[2 * self._shape.ranks * LINE + 1])

    @sleeps.setter
    def sleeps(self, value: bool) -> None:
        self._words[2 * self._shape.ranks * LINE + 1] = value

    @property
    def welcome_at(self) -> int:
        """The address of what holds the number of the first vote of one that joins."""
        return self._address(2 * self._shape.ranks + 1)

    def post_welcome(
        self, flags: Flags, number: int, known: Vote, tables: NDArray[np.integer]
    ) -> None:
        """As the rank that leads: join with vote `number`; what it knows, and where experts are."""
        self.tables[:] = tables
        flags.post(self.welcome_at, [number, *known.words()])

    def welcome(self) -> tuple[int, Vote] | None:
        """The number of the first vote and what the one that leads knew; None: not yet."""
        at = (2 * self._shape.ranks + 1) * LINE
        number, *words = self._words[at : at + 1 + WORDS].tolist()
        return (number, Vote.of(words)) if number else None

    def post_proposal(
        self, flags: Flags, number: int, layer: int, table: NDArray[np.integer]
    ) -> None:
        """As the rank that leads: another placement for a layer, counted among those with experts."""
        self.proposed[:] = table
        flags.post(self._address(2 * self._shape.ranks + 2), [number, layer])

    def proposal(self) -> tuple[int, int, NDArray[np.int64]]:
        """Number, layer and table of the last one."""
        at = (2 * self._shape.ranks + 2) * LINE
        number, layer = self._words[at : at + 2].tolist()
        return number, layer, self.proposed.astype(np.int64)
