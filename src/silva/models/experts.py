"""Experts of a layer, and the seam through which a model reaches them wherever they are.

A model says which experts a token goes to and with which weight; whether they run in this process
or on other ranks is the exchange's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class ExpertExchange(Protocol):
    """Sends tokens to their experts and brings the weighted sum of the answers back."""

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """``y_t = sum_k weights[t, k] E_{experts[t, k]}(x_t)``, in float32 and in the order of k.

        x [tokens, hidden_size], experts int64 [tokens, top_k], weights float32 [tokens, top_k] ->
        [tokens, hidden_size] of x's type. There may be no tokens. The order is fixed so that it
        does not matter where experts are, or who answers first.
        """
        ...


@dataclass(frozen=True)
class ExpertWeights:
    """Some experts of one layer, ``E(x) = down (silu(g) * u), [g; u] = gate_up x``.

    gate_up [kept, 2 * inner, hidden_size], down [kept, hidden_size, inner]; `ids` says which
    expert each one is, ascending.
    """

    ids: tuple[int, ...]
    gate_up: Tensor
    down: Tensor


def run_plain(x: Tensor, places: Tensor, weights: ExpertWeights) -> Tensor:
    """Rows x [rows, hidden_size], each through the expert at its place in `weights`: one by one."""
    out = torch.empty_like(x)
    for place in places.unique().tolist():
        mine = (places == place).nonzero()[:, 0]
        gate, up = F.linear(x[mine], weights.gate_up[place]).chunk(2, dim=-1)
        out[mine] = F.linear(F.silu(gate) * up, weights.down[place])
    return out


def run_grouped(x: Tensor, places: Tensor, weights: ExpertWeights) -> Tensor:
    """The same with rows sorted by expert and all experts in one grouped product."""
    order = places.argsort(stable=True)
    made = run_sorted(x[order], places.bincount(minlength=len(weights.ids)), weights)
    return torch.empty_like(x).index_copy_(0, order, made)


def run_sorted(x: Tensor, counts: Tensor, weights: ExpertWeights) -> Tensor:
    """The same for rows that are sorted already: so many, `counts` [kept], for each expert."""
    if not len(x):
        return torch.empty_like(x)
    ends = counts.cumsum(0).to(torch.int32)
    gate_up = torch._grouped_mm(x, weights.gate_up.transpose(1, 2), offs=ends)
    gate, up = gate_up.chunk(2, dim=-1)
    return torch._grouped_mm(F.silu(gate).mul_(up), weights.down.transpose(1, 2), offs=ends)


def weighted_sum(made: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """made [tokens, top_k, hidden_size], weights [tokens, top_k] -> [tokens, hidden_size].

    In float32 and in the order of the second axis, whatever a library's sum would do.
    """
    total = torch.zeros(made.shape[0], made.shape[2], dtype=torch.float32)
    for k in range(made.shape[1]):
        total.addcmul_(made[:, k].float(), weights[:, k, None].float())
    return total.to(dtype)


class LocalExperts:
    """An `ExpertExchange` with all experts in this process."""

    def __init__(
        self, layers: Mapping[int, ExpertWeights], form: Literal["grouped", "plain"] = "grouped"
    ) -> None:
        """Experts by layer; every expert has to be there, so that its place is its number."""
        self._layers, self._run = dict(layers), run_grouped if form == "grouped" else run_plain
        for layer, weights in self._layers.items():
            if weights.ids != tuple(range(len(weights.ids))):
                raise ValueError(f"layer {layer} has not all experts here")

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        top_k = experts.shape[1]
        rows = x.repeat_interleave(top_k, dim=0)
        made = self._run(rows, experts.reshape(-1), self._layers[layer])
        return weighted_sum(made.view(len(x), top_k, x.shape[1]), weights, x.dtype)
