"""Ranks of one exchange, as threads or as processes, and what they should come to."""

from __future__ import annotations

import threading
import time
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


def at_once(ranks: int, run: Callable[[int], Any], limit_s: float = 300.0) -> list[Any]:
    """`run` for each rank in a thread of its own; what each returned.

    Raises the first error of all, and TimeoutError when some have not ended in time.
    """
    results: list[Any] = [None] * ranks
    errors: list[BaseException] = []

    def kept(rank: int) -> None:
        try:
            results[rank] = run(rank)
        except BaseException as error:
            errors.append(error)

    # Daemons: one that hangs must not keep the tests from ending.
    threads = [threading.Thread(target=kept, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    if errors:
        raise errors[0]
    late = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    if late:
        raise TimeoutError(f"ranks {late} have not ended after {limit_s} s")
    return results


def run_ranks(
    sizes: BufferSizes,
    table: np.ndarray,
    work: Callable[[SharedExchange], Any],
    **settings: Any,
) -> list[Any]:
    """`work` on an exchange of each rank, all at once in threads; what each returned."""
    memories = [OwnMemory(rank, sizes.total) for rank in range(sizes.ranks)]
    members = [memory.member for memory in memories]

    def run(rank: int) -> Any:
        exchange = SharedExchange(
            sizes,
            memories[rank],
            members,
            {LAYER: experts_of(table, rank)},
            {LAYER: table},
            total=EXPERTS,
            **settings,
        )
        return work(exchange)

    return at_once(sizes.ranks, run)
