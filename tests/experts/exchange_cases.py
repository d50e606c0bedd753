"""Ranks of one exchange, as threads or as processes, and what they should come to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from silva.control.placement import place
from silva.experts.exchange import SharedExchange
from silva.experts.memory import OwnMemory
from silva.experts.sizes import BufferSizes
from silva.models.experts import ExpertWeights, LocalExperts

HIDDEN, INNER, EXPERTS, TOP_K, LAYER = 24, 8, 8, 3, 5


def all_experts(seed: int = 0) -> ExpertWeights:
    source = torch.Generator().manual_seed(seed)
    return ExpertWeights(
        tuple(range(EXPERTS)),
        torch.randn(EXPERTS, 2 * INNER, HIDDEN, generator=source) * 0.3,
        torch.randn(EXPERTS, HIDDEN, INNER, generator=source) * 0.3,
    )


def placement(ranks: int, slots: int, seed: int = 0) -> np.ndarray:
    """Experts [ranks, slots], the busy ones with replicas."""
    load = np.random.default_rng(seed).lognormal(0, 1, (1, EXPERTS))
    return place(load, ranks, slots).slots[0]


def experts_of(table: np.ndarray, rank: int) -> ExpertWeights:
    ids = tuple(sorted(int(e) for e in table[rank] if e >= 0))
    weights = all_experts()
    return ExpertWeights(ids, weights.gate_up[list(ids)], weights.down[list(ids)])


def tokens_of(rank: int, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Tokens, the experts they go to and the weights, different on every rank."""
    source = torch.Generator().manual_seed(100 * seed + rank)
    x = torch.randn(count, HIDDEN, generator=source)
    experts = torch.rand(count, EXPERTS, generator=source).topk(TOP_K).indices
    return x, experts, torch.rand(count, TOP_K, generator=source)


def expected(x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return LocalExperts({LAYER: all_experts()}, "plain")(LAYER, x, experts, weights)


def sizes_of(ranks: int, slots: int, **changes: Any) -> BufferSizes:
    settings = {"local_batch": 4, "top_k": TOP_K, "item_bytes": 4, "hidden_size": HIDDEN}
    return BufferSizes(ranks=ranks, slots=slots, **{**settings, **changes})


def run_ranks(
    sizes: BufferSizes,
    table: np.ndarray,
    work: Callable[[SharedExchange], Any],
    **settings: Any,
) -> list[Any]:
    """`work` on an exchange of each rank, all at once in threads; what each returned."""
    memories = [OwnMemory(rank, sizes.total) for rank in range(sizes.ranks)]
    members = [memory.member for memory in memories]
    results: list[Any] = [None] * sizes.ranks

    def run(rank: int) -> None:
        try:
            exchange = SharedExchange(
                sizes,
                memories[rank],
                members,
                {LAYER: experts_of(table, rank)},
                {LAYER: table},
                total=EXPERTS,
                **settings,
            )
            results[rank] = work(exchange)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(sizes.ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
