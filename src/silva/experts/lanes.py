"""The exchange of a rank, and a second one beside it in which rounds of the same pass can overlap.

A pass that is not split goes through the first lane, whatever its size. One that is split has half
of its tokens in each: so the second lane has room for half as many.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.experts.exchange import Round, SharedExchange
from silva.experts.memory import Member
from silva.models.experts import ExpertWeights


class Lanes:
    """An `ExpertExchange` (silva.models.experts), through the first lane. For one thread."""

    def __init__(
        self, lanes: Sequence[SharedExchange], layers: Sequence[int], experts: int
    ) -> None:
        """One lane or two; `layers` have `experts` each."""
        self.lanes = tuple(lanes)
        self.sent = np.zeros((len(layers), experts), np.uint32)
        """Tokens of this rank for each expert so far [layers, experts], up to 2**32."""
        self._first, self._index = lanes[0], {layer: n for n, layer in enumerate(layers)}
        for lane in lanes:
            lane.lost = self.exclude

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """See `ExpertExchange`."""
        self._count(layer, experts)
        return self._first(layer, x, experts, weights)

    def begin(self, lane: int, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Round:
        """As a lane's own, for half of a pass."""
        self._count(layer, experts)
        return self.lanes[lane].begin(layer, x, experts, weights)

    def begin_none(self, lane: int, layer: int) -> Round:
        """The same for a rank that has no tokens in this half."""
        return self.lanes[lane].begin(layer, *self.nothing)

    def follow(self, layer: int, *, split: bool) -> None:
        """This rank's part in a layer of a pass that it has no tokens for."""
        if not split:
            self._first(layer, *self.nothing)
            return
        rounds = [self.begin_none(lane, layer) for lane in range(len(self.lanes))]
        for lane, begun in zip(self.lanes, rounds, strict=True):
            lane.serve(begun)
        for lane, begun in zip(self.lanes, rounds, strict=True):
            lane.end(begun)

    @property
    def nothing(self) -> tuple[Tensor, Tensor, Tensor]:
        """No tokens, their experts and the weights."""
        sizes = self._first.sizes
        nowhere = torch.zeros(0, sizes.top_k, dtype=torch.int64)
        return torch.zeros(0, sizes.hidden_size, dtype=self.dtype), nowhere, nowhere.float()

    def _count(self, layer: int, experts: Tensor) -> None:
        at = self._index[layer]
        counts = torch.bincount(experts.reshape(-1), minlength=self.sent.shape[1])
        self.sent[at] += counts.numpy().astype(np.uint32)

    # What is true of all lanes ----------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of tokens and experts."""
        return self._first.dtype

    @property
    def dead(self) -> set[int]:
        """Ranks that nobody waits for."""
        return self._first.dead

    def exclude(self, ranks: Collection[int]) -> None:
        """See `SharedExchange`: what one lane notices, the other need not wait for."""
        for lane in self.lanes:
            lane.exclude(ranks)

    def admit(self, member: Member) -> None:
        """See `SharedExchange`."""
        for lane in self.lanes:
            lane.admit(member)

    def rebalance(
        self, layer: int, slots: NDArray[np.integer], experts: ExpertWeights | None = None
    ) -> None:
        """See `SharedExchange`."""
        for lane in self.lanes:
            lane.rebalance(layer, slots, experts)

    @property
    def round(self) -> int:
        """The number of the last round of all lanes."""
        return max(lane.round for lane in self.lanes)

    def resume(self, number: int) -> None:
        """See `SharedExchange`."""
        for lane in self.lanes:
            lane.resume(number)

    def begin_step(self) -> None:
        """See `SharedExchange`."""
        for lane in self.lanes:
            lane.begin_step()

    @property
    def incomplete(self) -> Tensor:
        """See `SharedExchange`: tokens of the first lane, then of the second one."""
        return torch.cat([lane.incomplete for lane in self.lanes])

    def check_out(self) -> None:
        """See `SharedExchange`."""
        for lane in self.lanes:
            lane.check_out()

    @property
    def gone_on(self) -> Callable[[int], bool]:
        """See `SharedExchange`."""
        return self._first.gone_on

    @gone_on.setter
    def gone_on(self, asked: Callable[[int], bool]) -> None:
        for lane in self.lanes:
            lane.gone_on = asked
