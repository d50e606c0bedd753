"""Two exchanges over one memory, in which the rounds of a pass overlap; and a wire that is slow."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from exchange_cases import (
    EXPERTS,
    LAYER,
    at_once,
    expected,
    experts_of,
    placement,
    run_ranks,
    sizes_of,
    tokens_of,
)

from silva.experts import futex
from silva.experts.delayed import Post
from silva.experts.exchange import OutOfStepError, SharedExchange
from silva.experts.lanes import Lanes
from silva.experts.memory import OwnMemory
from silva.experts.shape import GroupShape, Pass
from silva.kernels import native_loaded
from silva.kernels.native import Backend

BACKENDS: list[Backend] = ["portable"] + (["native"] if native_loaded() else [])
pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")


def run_lanes(
    shape: GroupShape, table: np.ndarray, work: Callable[[Lanes], Any], **settings: Any
) -> list[Any]:
    """`work` on the two lanes of each rank, all at once in threads; what each returned."""
    memories = [OwnMemory(rank, shape.memory) for rank in range(shape.buffers.ranks)]
    members = [memory.member for memory in memories]

    def run(rank: int) -> Any:
        lanes = [
            SharedExchange(
                sizes,
                memories[rank],
                members,
                {LAYER: experts_of(table, rank)},
                {LAYER: table},
                total=EXPERTS,
                at=at,
                whole=shape.memory,
                **settings,
            )
            for sizes, at in zip(shape.lanes, (0, shape.second), strict=True)
        ]
        return work(Lanes(lanes, [LAYER], EXPERTS))

    return at_once(len(memories), run)


def shape_of(ranks: int, slots: int, **changes: Any) -> GroupShape:
    sizes = sizes_of(ranks, slots, **changes)
    return GroupShape(sizes, {Pass.HIDDEN: (LAYER,)}, EXPERTS, overlap="on")


@pytest.mark.parametrize("wire", ["exact", "int8"])
@pytest.mark.parametrize("delay_s", [None, 0.002])
@pytest.mark.parametrize("backend", BACKENDS)
def test_both_halves_get_the_answers_of_experts_in_one_place(
    backend: Backend, delay_s: float | None, wire: Any
) -> None:
    def work(lanes: Lanes) -> Any:
        post = None if delay_s is None else Post(delay_s)
        rank, found = lanes.lanes[0].rank, []
        for lane in lanes.lanes:
            if post is not None:
                lane.rewire(post.moves)
        for turn in range(4):
            # The second lane has room for half as many; some ranks have none.
            given = [tokens_of(rank, (rank + turn) % 5, turn), tokens_of(rank, turn % 3, 10 + turn)]
            begun = [lanes.begin(n, LAYER, *tokens) for n, tokens in enumerate(given)]
            for lane, half in zip(lanes.lanes, begun, strict=True):
                lane.serve(half)
            for lane, half, tokens in zip(lanes.lanes, begun, given, strict=True):
                found.append((tokens, lane.end(half)))
            assert not lanes.incomplete.any()
            # A pass that is not split goes between those that are.
            lanes.begin_step()
            lanes.resume(lanes.round)
            whole = tokens_of(rank, (3 * rank + turn) % 7, 20 + turn)
            found.append((whole, lanes(LAYER, *whole)))
            lanes.begin_step()
            lanes.resume(lanes.round)
        if post is not None:
            post.close()
        return found

    shape = shape_of(4, 3, local_batch=4, wire=wire)
    near = {"rtol": 0.05, "atol": 0.2} if wire == "int8" else {}
    for of_rank in run_lanes(shape, placement(4, 3), work, backend=backend):
        for given, answer in of_rank:
            torch.testing.assert_close(answer, expected(*given), **near)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slow_wire_delays_what_goes_to_others(backend: Backend) -> None:
    def work(exchange: SharedExchange) -> Any:
        post = Post(0.2)
        exchange.rewire(post.moves)
        given, start_s = tokens_of(exchange.rank, 4), time.monotonic()
        answer = exchange(LAYER, *given)
        spent_s = time.monotonic() - start_s
        post.close()
        return given, answer, spent_s

    for given, answer, spent_s in run_ranks(sizes_of(2, 4), placement(2, 4), work, backend=backend):
        torch.testing.assert_close(answer, expected(*given))
        assert spent_s >= 0.4  # there and back


def test_what_one_lane_notices_the_other_knows() -> None:
    table = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]])
    left = threading.Event()

    def work(lanes: Lanes) -> Any:
        rank = lanes.lanes[0].rank
        given = [tokens_of(rank, 4), tokens_of(rank, 2, 1)]
        if rank == 3:
            # It dies when it has sent what it had in both lanes, and before it answers.
            for lane, tokens in enumerate(given):
                lanes.begin(lane, LAYER, *tokens)
            left.set()
            return None
        for lane in lanes.lanes:
            lane._peers[3].alive = lambda: not left.is_set()
        begun = [lanes.begin(n, LAYER, *tokens) for n, tokens in enumerate(given)]
        for lane, half in zip(lanes.lanes, begun, strict=True):
            lane.serve(half)
        answers = [lane.end(half) for lane, half in zip(lanes.lanes, begun, strict=True)]
        assert [sorted(lane.dead) for lane in lanes.lanes] == [[3], [3]]
        return torch.cat([x for x, *_ in given]), given, torch.cat(answers), lanes.incomplete

    lacking = 0
    for found in run_lanes(shape_of(4, 4), table, work)[:3]:
        _, given, answers, lacks = found
        right = torch.cat([expected(*tokens) for tokens in given])
        torch.testing.assert_close(answers[~lacks], right[~lacks])
        lacking += int(lacks.sum())
    assert lacking > 0


def test_ranks_of_which_one_splits_the_pass_are_out_of_step() -> None:
    def work(exchange: SharedExchange) -> Any:
        given = tokens_of(exchange.rank, 2)
        if exchange.rank == 0:
            begun = exchange.begin(LAYER, *given)
            with pytest.raises(OutOfStepError, match="one splits the pass"):
                exchange.serve(begun)
        else:
            with pytest.raises(OutOfStepError, match="one splits the pass"):
                exchange(LAYER, *given)

    run_ranks(sizes_of(2, 4), placement(2, 4), work)


def test_half_a_pass_goes_in_one_round() -> None:
    def work(exchange: SharedExchange) -> None:
        with pytest.raises(ValueError, match="do not go in one round"):
            exchange.begin(LAYER, *tokens_of(exchange.rank, 5))

    run_ranks(sizes_of(1, 8, local_batch=4), placement(1, 8), work)


@pytest.mark.parametrize(("batch", "half"), [(96, 48), (7, 4), (1, 1)])
def test_the_second_lane_has_buffers_for_half_the_tokens(batch: int, half: int) -> None:
    sizes = sizes_of(8, 3, local_batch=batch, hidden_size=36)
    layers = {Pass.HIDDEN: (LAYER,)}
    for overlap in ("on", "auto"):
        shape = GroupShape(sizes, layers, EXPERTS, overlap=overlap)
        first, second = shape.lanes
        assert first == sizes
        assert second.dispatch + second.combine == 8 * half * 3 * (36 * 4 + 36 * 4)
        assert shape.second % 64 == 0
        assert first.total <= shape.second < first.total + 64
        assert shape.memory == shape.second + second.total
    shape = GroupShape(sizes, layers, EXPERTS, overlap="off")
    assert shape.lanes == (sizes,)
    assert shape.memory == sizes.total
