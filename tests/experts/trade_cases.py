"""Trades of ranks that are threads of this process, and a step computed by them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from exchange_cases import at_once
from torch import Tensor

from silva.experts.memory import Member, OwnMemory
from silva.experts.shared_trade import Present, SharedTrade, TradeSizes
from silva.models import deepseek_tensors
from silva.models.deepseek import Deepseek
from silva.models.deepseek_config import DeepseekConfig
from silva.models.experts import LocalExperts


class LostError(Exception):
    """Raised where ranks are lost; its argument is which."""


class BehindError(Exception):
    """Raised where others are at an earlier step."""


class Fixed:
    """A `Company` of the same ranks for all passes."""

    def __init__(self, members: Mapping[int, Member], barrier: threading.Barrier) -> None:
        self.members, self.ended = members, set[int]()
        self._barrier, self._number = barrier, 0

    def begin(self) -> Present:
        self._barrier.wait(60)
        self._number += 1
        return Present(self._number, self.members)

    def alive(self, rank: int) -> bool:
        return rank not in self.ended

    def behind(self) -> NoReturn:
        raise BehindError

    def check(self) -> None: ...

    def late(self, ranks: Sequence[int]) -> None: ...

    def lost(self, ranks: set[int]) -> NoReturn:
        raise LostError(ranks)


def run_trades(
    ranks: int, work: Callable[[SharedTrade, Fixed], Any], piece: int = 100, **settings: Any
) -> list[Any]:
    """`work` on a trade of each rank, all at once; what each returned."""
    sizes = TradeSizes(ranks, piece)
    memories = [OwnMemory(rank, sizes.total) for rank in range(ranks)]
    members = {rank: memory.member for rank, memory in enumerate(memories)}
    barrier = threading.Barrier(ranks)

    def run(rank: int) -> Any:
        company = Fixed(members, barrier)
        return work(SharedTrade(sizes, memories[rank], company, **settings), company)

    return at_once(ranks, run)


def random_model(config: DeepseekConfig, dtype: torch.dtype = torch.float64) -> Deepseek:
    """A model without experts."""
    source = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.randn(shape, generator=source, dtype=torch.float64) * 0.2).to(dtype)
        for name, shape in deepseek_tensors.shapes(config).items()
    }
    weights = deepseek_tensors.assemble(config, tensors.__getitem__)
    return Deepseek(config, weights, LocalExperts({}), name="random", digest="")


def by_hand(model: Deepseek, tokens: Tensor) -> Tensor:
    """Hidden states of one sequence by the formulas of arXiv 2405.04434, head by head, in float64."""
    c, w = model.config, model.weights
    x, length = w.embedding[tokens], len(tokens)
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    for layer in w.layers:
        a = layer.attention
        assert a.q_down is not None and a.q_norm is not None and layer.mlp is not None
        n = norm(x, a.norm, c.norm_eps)
        q = norm(n @ a.q_down[0][0].T, a.q_norm, 1e-6) @ a.q_up[0][0].T
        kv = n @ a.kv_down[0][0].T
        latent, k_rope = norm(kv[:, : c.kv_rank], a.kv_norm, 1e-6), turned(kv[:, c.kv_rank :], c)
        said = []
        for head, of_head in enumerate(q.view(length, c.heads, -1).unbind(1)):
            up = a.heads.up[head]
            k, v = latent @ up[: c.nope_size].T, latent @ up[c.nope_size :].T
            score = of_head[:, : c.nope_size] @ k.T
            score = score + turned(of_head[:, c.nope_size :], c) @ k_rope.T
            score = score * (c.nope_size + c.rope_size) ** -0.5
            said.append(score.masked_fill(~seen, float("-inf")).softmax(-1) @ v)
        x = x + torch.cat(said, dim=1) @ a.output[0][0].T
        n = norm(x, layer.mlp_norm, c.norm_eps)
        (gate, _), (up, _) = layer.mlp.gate_up
        x = x + (torch.nn.functional.silu(n @ gate.T) * (n @ up.T)) @ layer.mlp.down[0][0].T
    return norm(x, w.norm, c.norm_eps)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x: Tensor, c: DeepseekConfig) -> Tensor:
    """Pairs as complex numbers, turned by the position of their row."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    places = torch.arange(0, c.rope_size, 2, dtype=torch.float64) / c.rope_size
    angle = torch.arange(len(x), dtype=torch.float64)[:, None] / c.rope.theta**places
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(1)
