"""Where in a rank's memory everything is: flags and counts, tokens that arrive, answers.

    [round odd or even][rank] flag, topic, placement, counts by slot   written by that rank
    [rank] flag of its answers                                         written by that rank
    [rank][max_tokens] tokens                                          written by that rank
    [rank][max_tokens] answers                                         written by that rank

A flag is the number of its round and is written last: who sees it sees all that it stands for
(silva.experts.futex says where that holds).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.experts import futex, wire
from silva.experts.memory import Memory
from silva.experts.sizes import LINE_BYTES, BufferSizes


class Topic(NamedTuple):
    """What a round is about; the same on all ranks, or they are out of step."""

    layer: int
    placement: int
    """A 32-bit checksum of which experts are where."""


class Layout:
    """One rank's memory, seen by itself or by another; `word`s are counted from the beginning."""

    def __init__(self, memory: Memory, sizes: BufferSizes, dtype: torch.dtype) -> None:
        self._memory, self._sizes = memory, sizes
        words: NDArray[np.uint32] = memory.bytes[: sizes.control].numpy().view(np.uint32)
        self._words = words
        raw = memory.bytes[sizes.control : sizes.total]
        tokens = raw[: sizes.dispatch].view(sizes.ranks, sizes.max_tokens, sizes.dispatch_message)
        self.tokens = [wire.lay_out(tokens[n], sizes, dtype) for n in range(sizes.ranks)]
        """By the rank that writes them."""
        self.all_answers = raw[sizes.dispatch :].view(dtype).view(-1, sizes.hidden_size)
        """Those of rank r begin at ``r * max_tokens``."""
        self.answers: list[Tensor] = list(self.all_answers.split(sizes.max_tokens))
        """By the rank that writes them."""

    def flag(self, rank: int, number: int) -> int:
        """The word that holds `number` once the tokens of `rank` in that round are all here."""
        return ((number % 2) * self._sizes.ranks + rank) * self._sizes.line // 4

    def answered(self, rank: int) -> int:
        """The word that holds a round's number once the answers of `rank` are all here."""
        return (2 * self._sizes.ranks * self._sizes.line + rank * LINE_BYTES) // 4

    def word(self, index: int) -> int:
        """A word's value."""
        return int(self._words[index])

    def address_of(self, index: int) -> int:
        """A word's place in this process's memory."""
        return self._memory.address + 4 * index

    def announce(
        self, rank: int, number: int, counts: NDArray[np.int64], topic: Topic, more: bool
    ) -> None:
        """As `rank`: the tokens of this round are here, so many for each slot of a layer."""
        at = self.flag(rank, number)
        self._words[at + 3 : at + 3 + len(counts)] = counts
        self._words[at + 1 : at + 3] = 2 * topic.layer + more, topic.placement
        self._raise(at, number)

    def announced(self, rank: int, number: int) -> tuple[Topic, bool, list[int]]:
        """What `rank` announced: topic, whether it has more tokens for it, counts by slot."""
        at = self.flag(rank, number)
        layer, placement, *counts = self._words[at + 1 : at + 3 + self._sizes.slots].tolist()
        return Topic(layer // 2, placement), bool(layer % 2), counts

    def answered_all(self, rank: int, number: int) -> None:
        """As `rank`: the answers to all that was sent to it in this round are here."""
        self._raise(self.answered(rank), number)

    def _raise(self, index: int, number: int) -> None:
        self._words[index] = number % 2**32
        futex.wake(self.address_of(index))
