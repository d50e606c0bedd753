"""Moving tokens and answers between the memories of ranks, and its portable form.

What a round is and who is alive is `silva.experts.exchange`'s. Here are the moves of a round,
and in `silva.experts.native_moves` the same, compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.errors import MissingExtraError
from silva.experts import wire
from silva.experts.flags import PortableFlags
from silva.experts.layout import Layout, Topic
from silva.experts.native_moves import NativeMoves, compiled_for
from silva.experts.routes import Routes
from silva.experts.sent import Sent
from silva.experts.sizes import BufferSizes
from silva.kernels.native import REMEDY, Backend


class Moves(Protocol):
    """What one rank does with the memories of all. `ranks` are alive, itself among them or not.

    `order` int64 [kept]: the slot of each expert that this rank keeps. `counts` int64 [ranks, slots]
    what came from each of `ranks`. `number` is that of the round.
    """

    def send(
        self,
        ranks: Sequence[int],
        number: int,
        topic: Topic,
        x: Tensor,
        experts: Tensor,
        to: Routes,
    ) -> Sent:
        """Write x [tokens, hidden_size] where `experts` [tokens, top_k] are, then all flags.

        Raises ValueError, with nothing written, where they do not fit the buffers or each other.
        """
        ...

    def gather(
        self, ranks: Sequence[int], counts: NDArray[np.int64], order: NDArray[np.int64]
    ) -> Tensor:
        """What came [rows, hidden_size], expert by expert, within one rank by rank."""
        ...

    def answer(
        self,
        ranks: Sequence[int],
        number: int,
        counts: NDArray[np.int64],
        order: NDArray[np.int64],
        made: Tensor,
    ) -> None:
        """Write what was made of those rows where their ranks look for it, then all flags."""
        ...

    def combine(self, answers: Tensor, weights: Tensor) -> Tensor:
        """``sum_k weights[t, k] answer[answers[t, k]]`` in this order, float32 [tokens, hidden_size].

        Negative places count as nothing.
        """
        ...


MakeMoves = Callable[[Backend, int, Mapping[int, Layout], BufferSizes, torch.dtype], Moves]
"""As `make_moves`."""


def make_moves(
    backend: Backend,
    rank: int,
    layouts: Mapping[int, Layout],
    sizes: BufferSizes,
    dtype: torch.dtype,
) -> Moves:
    """The moves of `rank`, over the memories of all ranks, which may be replaced between rounds.

    `auto`: compiled where that can be.

    Raises MissingExtraError where `native` cannot be had.
    """
    module = None if backend == "portable" else compiled_for(dtype)
    if module is not None:
        return NativeMoves(module, rank, layouts, sizes, dtype)
    if backend == "native":
        raise MissingExtraError(f"no compiled exchange for {dtype} here", remedy=REMEDY)
    return PortableMoves(rank, layouts, sizes, dtype)


class PortableMoves:
    """The same in torch and numpy. Its flags are the portable ones."""

    def __init__(
        self, rank: int, layouts: Mapping[int, Layout], sizes: BufferSizes, dtype: torch.dtype
    ) -> None:
        self._rank, self._sizes, self._dtype, self._layouts = rank, sizes, dtype, layouts
        self._mine, self._flags = self._layouts[rank], PortableFlags()

    def send(
        self,
        ranks: Sequence[int],
        number: int,
        topic: Topic,
        x: Tensor,
        experts: Tensor,
        to: Routes,
    ) -> Sent:
        width, top_k, most = self._sizes.slots, experts.shape[1], self._sizes.max_tokens
        places = to.places(experts).reshape(-1)
        order = places.argsort(stable=True)[int((places < 0).sum()) :]
        counts = places[order].bincount(minlength=self._sizes.ranks * width).numpy()
        by_rank = counts.reshape(-1, width)
        sums = by_rank.sum(axis=1)
        # Beyond its own part of a buffer a rank would write into another's.
        if sums.max() > most:
            raise ValueError("the tokens do not fit the buffers")
        ends = sums.cumsum()
        rows, encoded = order // top_k, wire.encode(x, self._sizes)
        for rank in _after(self._rank, ranks):
            there = self._layouts[rank]
            if sums[rank]:
                mine = rows[ends[rank] - sums[rank] : ends[rank]]
                wire.write(encoded, mine, there.tokens[self._rank])
            said = [number, topic.word, topic.placement, *by_rank[rank].tolist()]
            self._flags.post(there.flag(self._rank, number), said)
        # Answers come back in the order in which the copies were sent.
        place = np.repeat(np.arange(len(sums)) * most - (ends - sums), sums)
        answers = torch.full_like(places, -1)
        answers[order] = torch.from_numpy(place + np.arange(len(place)))
        return Sent(answers.view(len(x), top_k), by_rank)

    def gather(
        self, ranks: Sequence[int], counts: NDArray[np.int64], order: NDArray[np.int64]
    ) -> Tensor:
        sums = counts.sum(axis=1).tolist()
        came = [
            wire.read(self._mine.tokens[rank], count, self._dtype)
            for rank, count in zip(ranks, sums, strict=True)
        ]
        return torch.cat([came[n][here] for n, here in _pieces(counts, order)])

    def answer(
        self,
        ranks: Sequence[int],
        number: int,
        counts: NDArray[np.int64],
        order: NDArray[np.int64],
        made: Tensor,
    ) -> None:
        at = 0
        for n, here in _pieces(counts, order):
            size = here.stop - here.start
            self._layouts[ranks[n]].answers[self._rank][here] = made[at : at + size]
            at += size
        for rank in ranks:
            self._flags.post(self._layouts[rank].answered(self._rank), [number])

    def combine(self, answers: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros(len(weights), self._sizes.hidden_size)
        lost = bool((answers < 0).any())
        for k in range(weights.shape[1]):
            made = self._mine.all_answers[answers[:, k].clamp_min(0)].float()
            if lost:
                made[answers[:, k] < 0] = 0
            total.addcmul_(made, weights[:, k, None])
        return total


def _after(rank: int, ranks: Sequence[int]) -> list[int]:
    """`ranks` beginning after this one, so that not all write to the same one first."""
    return sorted(ranks, key=lambda other: (other <= rank, other))


def _pieces(counts: NDArray[np.int64], order: NDArray[np.int64]) -> list[tuple[int, slice]]:
    """What came, expert by expert, within one rank by rank: whose, and which of that rank's rows."""
    ends = counts.cumsum(axis=1)
    begins = ends - counts
    return [
        (n, slice(int(begins[n, slot]), int(ends[n, slot])))
        for slot in order.tolist()
        for n in range(len(counts))
    ]
