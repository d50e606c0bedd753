"""The plain twin of the exchange: three all-to-alls of torch.distributed.

Counts, tokens, answers, one after the other and each as large as the step makes it. It is what the
fused exchange is compared with, and the way over several machines. It knows no dead ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from silva.experts.routes import Routes
from silva.models.experts import ExpertWeights, run_plain, weighted_sum


class CollectiveExchange:
    """An `ExpertExchange` over the ranks of a process group, all of which call it alike."""

    def __init__(
        self,
        group: dist.ProcessGroup,
        experts: Mapping[int, ExpertWeights],
        slots: Mapping[int, NDArray[np.integer]],
        *,
        total: int,
        run: Callable[[Tensor, Tensor, ExpertWeights], Tensor] = run_plain,
    ) -> None:
        """`experts` of this rank and `slots` [ranks, slots] of all by layer; `total` in a layer."""
        self._group, self._rank, self._run = group, dist.get_rank(group), run
        self._experts = dict(experts)
        self._slots = {layer: np.asarray(table) for layer, table in slots.items()}
        self._routes = {
            layer: Routes(table, total, self._rank) for layer, table in self._slots.items()
        }

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """See `ExpertExchange`."""
        ranks, width = self._slots[layer].shape
        top_k = experts.shape[1]
        places = self._routes[layer].places(experts).reshape(-1)
        order = places.argsort(stable=True)
        sends = places.bincount(minlength=ranks * width).view(ranks, width)
        comes = torch.empty_like(sends)
        dist.all_to_all_single(comes, sends, group=self._group)
        going, coming = sends.sum(dim=1).tolist(), comes.sum(dim=1).tolist()
        arrived = x.new_empty(sum(coming), x.shape[1])
        dist.all_to_all_single(arrived, x[order // top_k], coming, going, group=self._group)
        held = self._slots[layer][self._rank].tolist()
        index = {expert: n for n, expert in enumerate(self._experts[layer].ids)}
        place = torch.tensor([index[e] if e >= 0 else 0 for e in held])
        slots = torch.arange(width).repeat(ranks).repeat_interleave(comes.view(-1))
        answers = self._run(arrived, place[slots], self._experts[layer])
        back = x.new_empty(len(order), x.shape[1])
        dist.all_to_all_single(back, answers, going, coming, group=self._group)
        made = torch.empty_like(back).index_copy_(0, order, back)
        return weighted_sum(made.view(len(x), top_k, x.shape[1]), weights, x.dtype)
