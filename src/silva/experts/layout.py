"""Where in a rank's memory everything is: flags and counts, tokens that arrive, answers.

    [round odd or even][rank] flag, topic, placement, counts by slot   written by that rank
    [rank] flag of its answers, whether this one is out                written by that rank
    [rank][max_tokens] tokens                                          written by that rank
    [rank][max_tokens] answers                                         written by that rank

A flag is the number of its round and is written last: who sees it sees all that it stands for
(silva.experts.flags sees to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.experts import wire
from silva.experts.flags import WORD_BYTES
from silva.experts.memory import Memory
from silva.experts.sizes import LINE_BYTES, BufferSizes


class Topic(NamedTuple):
    """What a round is about; but for `more` it is the same on all ranks, or they are out of step."""

    layer: int
    placement: int
    """A 32-bit checksum of which experts are where."""
    more: bool = False
    """Whether the rank has more tokens for it than fit into this round."""
    half: bool = False
    """Whether the pass is split, and this round one of two that overlap."""

    @property
    def word(self) -> int:
        """All but the placement, as it is written."""
        return 4 * self.layer + 2 * self.half + self.more

    @classmethod
    def of(cls, word: int, placement: int) -> Topic:
        """As it is read."""
        return cls(word // 4, placement, bool(word % 2), bool(word // 2 % 2))


class Layout:
    """One rank's memory, seen by itself or by another. Addresses are those of this process."""

    def __init__(self, memory: Memory, sizes: BufferSizes, dtype: torch.dtype, at: int = 0) -> None:
        """`at`: where in the memory it begins, a multiple of 64 bytes."""
        self._memory, self._sizes, self.address = memory, sizes, memory.address + at
        own = memory.bytes[at : at + sizes.total]
        words: NDArray[np.uint32] = own[: sizes.control].numpy().view(np.uint32)
        self._words = words
        flags = words[: 2 * sizes.ranks * sizes.line // WORD_BYTES]
        self._lines: NDArray[np.uint32] = flags.reshape(2 * sizes.ranks, -1)
        raw = own[sizes.control :]
        tokens = raw[: sizes.dispatch].view(sizes.ranks, sizes.max_tokens, sizes.dispatch_message)
        self.tokens = [wire.lay_out(tokens[n], sizes, dtype) for n in range(sizes.ranks)]
        """By the rank that writes them."""
        self.all_answers = raw[sizes.dispatch :].view(dtype).view(-1, sizes.hidden_size)
        """Those of rank r begin at ``r * max_tokens``."""
        self.answers: list[Tensor] = list(self.all_answers.split(sizes.max_tokens))
        """By the rank that writes them."""

    def flag(self, rank: int, number: int) -> int:
        """The address of what holds `number` once the tokens of `rank` in that round are here."""
        return self.address + ((number % 2) * self._sizes.ranks + rank) * self._sizes.line

    def answered(self, rank: int) -> int:
        """The address of what holds a round's number once the answers of `rank` are all here."""
        return self.address + 2 * self._sizes.ranks * self._sizes.line + rank * LINE_BYTES

    def announced(self, ranks: Sequence[int], number: int) -> tuple[list[Topic], NDArray[np.int64]]:
        """What `ranks` wrote beside their flags: topics, and counts [ranks, slots]."""
        at = (number % 2) * self._sizes.ranks
        said = self._lines[[at + rank for rank in ranks], 1 : 3 + self._sizes.slots]
        topics = [Topic.of(*words) for words in said[:, :2].tolist()]
        return topics, said[:, 2:].astype(np.int64)

    def put_out(self, rank: int) -> None:
        """As `rank`: whose memory this is counts as dead from now on."""
        self._words[self._out(rank)] = 1

    def put_out_by(self) -> list[int]:
        """The ranks for which this one is dead."""
        out = self._words[self._out(0) :: LINE_BYTES // WORD_BYTES][: self._sizes.ranks]
        return np.flatnonzero(out).tolist()

    def forgive(self, rank: int) -> None:
        """As this memory's own rank: another process has taken the place of `rank`."""
        self._words[self._out(rank)] = 0

    def _out(self, rank: int) -> int:
        return (self.answered(rank) - self.address) // WORD_BYTES + 1
