from __future__ import annotations

import platform
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from exchange_cases import (
    EXPERTS,
    HIDDEN,
    LAYER,
    TOP_K,
    expected,
    experts_of,
    placement,
    run_ranks,
    sizes_of,
    tokens_of,
)

from silva.errors import ConfigError, ServingError
from silva.experts import futex
from silva.experts.exchange import SharedExchange
from silva.experts.memory import OwnMemory
from silva.experts.sizes import BufferSizes
from silva.kernels import native_loaded
from silva.kernels.native import Backend

BACKENDS: list[Backend] = ["portable"] + (["native"] if native_loaded() else [])
pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("ranks", "slots"), [(1, 8), (2, 4), (2, 6), (4, 3), (8, 1)])
def test_the_answer_is_that_of_experts_in_one_place(
    ranks: int, slots: int, backend: Backend
) -> None:
    table = placement(ranks, slots)

    def work(exchange: SharedExchange) -> Any:
        found = []
        for turn in range(5):
            # Some ranks have no tokens, some more than fit into one round.
            given = tokens_of(exchange.rank, (3 * exchange.rank + turn * 5) % 11, turn)
            found.append((given, exchange(LAYER, *given)))
            exchange.begin_step()
        return found

    for of_rank in run_ranks(sizes_of(ranks, slots), table, work, backend=backend):
        for given, answer in of_rank:
            torch.testing.assert_close(answer, expected(*given))


def test_bytes_on_the_wire_are_those_of_the_formula() -> None:
    def work(exchange: SharedExchange) -> Any:
        exchange(LAYER, *tokens_of(exchange.rank, 4))
        return exchange.traffic, exchange.sizes

    for wire, message in (("exact", 4 * HIDDEN), ("int8", HIDDEN + 512)):
        results = run_ranks(sizes_of(4, 2, wire=wire), placement(4, 2), work)
        assert sum(t.tokens for t, _ in results) == sum(t.answers for t, _ in results) > 0
        for traffic, sizes in results:
            assert sizes.dispatch_message == message
            assert traffic.dispatch_bytes == traffic.tokens * message
            assert traffic.combine_bytes == traffic.answers * 4 * HIDDEN
            assert traffic.tokens <= 4 * TOP_K


def test_int8_is_near_exact() -> None:
    def work(exchange: SharedExchange) -> Any:
        given = tokens_of(exchange.rank, 7)
        return given, exchange(LAYER, *given)

    for given, answer in run_ranks(sizes_of(2, 4, wire="int8"), placement(2, 4), work):
        exact = expected(*given)
        assert not torch.equal(answer, exact)
        assert float((answer - exact).norm() / exact.norm()) < 0.02


def test_a_placement_may_change_between_steps() -> None:
    first, second = placement(4, 3, seed=0), placement(4, 3, seed=1)
    assert (first != second).any()

    def work(exchange: SharedExchange) -> Any:
        given = tokens_of(exchange.rank, 6)
        before = exchange(LAYER, *given)
        exchange.rebalance(LAYER, second, experts_of(second, exchange.rank))
        return given, before, exchange(LAYER, *given)

    for given, before, after in run_ranks(sizes_of(4, 3), first, work):
        torch.testing.assert_close(before, expected(*given))
        torch.testing.assert_close(after, expected(*given))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rank_that_leaves_is_not_waited_for_and_replicas_answer(backend: Backend) -> None:
    # Every expert is on two ranks, so that none is lost with rank 3.
    table = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]])
    left = threading.Event()

    def work(exchange: SharedExchange) -> Any:
        given = tokens_of(exchange.rank, 4)
        exchange(LAYER, *given)
        if exchange.rank == 3:
            left.set()
            return None
        # Threads of one process: this stands for the end of another.
        exchange._peers[3].alive = lambda: not left.is_set()
        exchange.begin_step()
        broken, lacks = exchange(LAYER, *given), exchange.incomplete
        exchange.begin_step()
        whole = exchange(LAYER, *given)
        return given, broken, lacks, whole, exchange.incomplete, exchange.dead

    results = run_ranks(sizes_of(4, 4), table, work, backend=backend)
    assert results[3] is None
    for given, broken, lacks, whole, lacks_after, dead in results[:3]:
        exact = expected(*given)
        assert dead == {3}
        assert lacks.any()
        torch.testing.assert_close(broken[~lacks], exact[~lacks])
        torch.testing.assert_close(whole, exact)
        assert not lacks_after.any()


def test_what_a_rank_wrote_before_it_died_counts() -> None:
    table = np.stack([np.arange(EXPERTS), np.full(EXPERTS, -1)])
    sizes = sizes_of(2, EXPERTS)
    memories = [OwnMemory(rank, sizes.total) for rank in range(2)]
    exchange = SharedExchange(
        sizes,
        memories[0],
        [memory.member for memory in memories],
        {LAYER: experts_of(table, 0)},
        {LAYER: table},
        total=EXPERTS,
    )

    def last_words() -> bool:
        topic = exchange._topics[LAYER]
        said = [1, topic.word, topic.placement, *[0] * EXPERTS]
        exchange._flags.post(exchange._mine.flag(1, 1), said)
        return False

    exchange._peers[1].alive = last_words
    given = tokens_of(0, 4)
    torch.testing.assert_close(exchange(LAYER, *given), expected(*given))
    assert exchange.dead == set()


@pytest.mark.parametrize("counts", [[13] + [0] * 7, [2**32 - 1] * 8])
def test_counts_that_cannot_be_are_refused_before_anything_is_read(counts: list[int]) -> None:
    table = np.stack([np.arange(EXPERTS), np.full(EXPERTS, -1)])
    sizes = sizes_of(2, EXPERTS)
    memories = [OwnMemory(rank, sizes.total) for rank in range(2)]
    members = [memory.member for memory in memories]
    held = {LAYER: experts_of(table, 0)}
    exchange = SharedExchange(sizes, memories[0], members, held, {LAYER: table}, total=EXPERTS)
    topic = exchange._topics[LAYER]
    # As another rank says it.
    said = [1, topic.word, topic.placement, *counts]
    exchange._flags.post(exchange._mine.flag(1, 1), said)
    with pytest.raises(ServingError, match="more tokens than fit"):
        exchange(LAYER, *tokens_of(0, 2))


def test_tokens_of_an_expert_that_is_nowhere_are_named() -> None:
    table = np.array([[0, 1, 2, 3], [4, 5, 6, -1]])

    def work(exchange: SharedExchange) -> Any:
        given = tokens_of(exchange.rank, 9)
        return given, exchange(LAYER, *given), exchange.incomplete

    for given, answer, lacks in run_ranks(sizes_of(2, 4), table, work):
        assert torch.equal(lacks, (given[1] == EXPERTS - 1).any(dim=1))
        torch.testing.assert_close(answer[~lacks], expected(*given)[~lacks])


def test_ranks_that_are_out_of_step_are_an_error() -> None:
    def work(exchange: SharedExchange) -> Any:
        exchange._experts[6] = exchange._experts[LAYER]
        exchange.rebalance(6, exchange._slots[LAYER])
        with pytest.raises(ServingError, match="is at layer"):
            exchange(5 + exchange.rank, *tokens_of(exchange.rank, 2))

    run_ranks(sizes_of(2, 4), placement(2, 4), work)


def test_ranks_that_place_experts_differently_are_an_error() -> None:
    first, second = placement(3, 4, seed=0), placement(3, 4, seed=1)

    def work(exchange: SharedExchange) -> Any:
        given = tokens_of(exchange.rank, 5)
        if exchange.rank == 1:
            exchange.rebalance(LAYER, second, experts_of(second, 1))
        with pytest.raises(ServingError, match="place experts differently"):
            exchange(LAYER, *given)
        # In step again they go on.
        if exchange.rank != 1:
            exchange.rebalance(LAYER, second, experts_of(second, exchange.rank))
        return given, exchange(LAYER, *given)

    for given, answer in run_ranks(sizes_of(3, 4), first, work):
        torch.testing.assert_close(answer, expected(*given))


def test_the_buffers_of_a_320_rank_deployment_are_those_published() -> None:
    sizes = BufferSizes(320, 96, 8, 1, 7168, 2, "int8")
    assert sizes.max_tokens == 96
    assert (sizes.dispatch_message, sizes.combine_message) == (7680, 14336)
    assert (sizes.dispatch >> 20, sizes.combine >> 20) == (225, 420)
    assert sizes.control < 1 << 20


def test_scales_that_would_not_be_aligned_are_refused() -> None:
    with pytest.raises(ConfigError, match="send exact"):
        run_ranks(sizes_of(1, 8, hidden_size=26, wire="int8"), placement(1, 8), lambda _: None)


def test_a_machine_that_may_reorder_stores_needs_the_compiled_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ServingError, match="x86-64"):
        run_ranks(sizes_of(1, 8), placement(1, 8), lambda _: None, backend="portable")


def test_ranks_whose_buffers_differ_are_an_error() -> None:
    small, large = sizes_of(2, 4), sizes_of(2, 4, local_batch=5)
    memories = [OwnMemory(0, small.total), OwnMemory(1, large.total)]
    members = [memory.member for memory in memories]
    table = placement(2, 4)
    for wrong in (members, members[:1], members[::-1]):
        with pytest.raises(ServingError, match="do not agree"):
            SharedExchange(
                small,
                memories[0],
                wrong,
                {LAYER: experts_of(table, 0)},
                {LAYER: table},
                total=EXPERTS,
            )


def test_values_of_another_size_than_the_buffers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 bytes"):
        run_ranks(sizes_of(1, 8, item_bytes=2), placement(1, 8), lambda _: None)


def test_weights_that_are_not_those_of_the_placement_are_refused() -> None:
    table = placement(2, 4)
    other = table[::-1].copy()

    def work(exchange: SharedExchange) -> Any:
        given = tokens_of(exchange.rank, 3)
        with pytest.raises(ValueError, match="placement says"):
            exchange.rebalance(LAYER, other)
        with pytest.raises(ValueError, match="does not fit"):
            exchange.rebalance(LAYER, table[:, :3], experts_of(table[:, :3], exchange.rank))
        # More in the slots than among the weights, too: nobody would answer for it.
        few = experts_of(np.where(table == table[exchange.rank, 0], -1, table), exchange.rank)
        with pytest.raises(ValueError, match="placement says"):
            exchange.rebalance(LAYER, table, few)
        return given, exchange(LAYER, *given)

    for given, answer in run_ranks(sizes_of(2, 4), table, work):
        torch.testing.assert_close(answer, expected(*given))


def test_tokens_that_do_not_fit_the_buffers_are_refused() -> None:
    def work(exchange: SharedExchange) -> Any:
        x, experts, weights = tokens_of(exchange.rank, 4)
        with pytest.raises(ValueError, match="does not fit"):
            exchange(LAYER, torch.cat([x, x], dim=1), experts, weights)
        twice = torch.cat([experts, experts], dim=1)
        with pytest.raises(ValueError, match="does not fit"):
            exchange(LAYER, x, twice, torch.cat([weights, weights], dim=1))
        with pytest.raises(ValueError, match="float64"):
            exchange(LAYER, x.double(), experts, weights)
        for few in ((x[:3], experts, weights), (x, experts, weights[:, :1])):
            with pytest.raises(ValueError, match="do not fit each other"):
                exchange(LAYER, *few)
        return (x, experts, weights), exchange(LAYER, x, experts, weights)

    # One rank alone, so that nobody waits for what was refused.
    ((given, answer),) = run_ranks(sizes_of(1, 8), placement(1, 8), work)
    torch.testing.assert_close(answer, expected(*given))


def test_a_rank_that_others_took_for_dead_ends_by_itself() -> None:
    table = np.stack([np.arange(EXPERTS), np.arange(EXPERTS)])
    excluded = threading.Event()

    def work(exchange: SharedExchange) -> Any:
        given = tokens_of(exchange.rank, 3)
        if exchange.rank == 0:
            exchange.exclude({1})
            excluded.set()
            return given, exchange(LAYER, *given)
        assert excluded.wait(60)
        with pytest.raises(ServingError, match=r"taken for dead by \[0\]"):
            exchange(LAYER, *given)
        return None

    (given, answer), _ = run_ranks(sizes_of(2, EXPERTS), table, work)
    torch.testing.assert_close(answer, expected(*given))
