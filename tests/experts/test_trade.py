"""Rows to all, columns to rows: what comes is what was sent, and its bytes are counted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from trade_cases import BehindError, Fixed, LostError, run_trades

from silva.errors import ServingError
from silva.experts import futex
from silva.experts.exchange import OutOfStepError
from silva.experts.memory import OwnMemory
from silva.experts.shared_trade import SharedTrade, TradeSizes
from silva.experts.trade import Goods, Sharers, Step, even, gather, to_rows
from silva.kernels import native_loaded
from silva.kernels.native import Backend

BACKENDS: list[Backend] = ["portable"] + (["native"] if native_loaded() else [])
pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
WIDTH = 6


@pytest.mark.parametrize(("total", "parts"), [(7, 3), (2, 4), (0, 2), (8, 4), (5, 1)])
def test_parts_are_even(total: int, parts: int) -> None:
    found = even(total, parts)
    assert len(found) == parts and sum(found) == total
    assert max(found) - min(found) <= 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("piece", [20, 1000])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_what_comes_is_what_was_sent(ranks: int, piece: int, backend: Backend) -> None:
    # Pieces that need several rounds, and some that are empty.
    rows, columns = [3, 0, 5, 1][:ranks], [2, 1, 4, 3][:ranks]

    def work(trade: SharedTrade, company: Fixed) -> Any:
        for step in range(4):
            source = torch.Generator().manual_seed(step)
            whole = torch.randn(sum(rows), WIDTH, generator=source)
            wide = torch.randn(sum(rows), sum(columns), generator=source)
            place, count = trade.begin(Step(step, 7))
            assert (place, count) == (trade.rank, ranks)
            mine = whole.split(rows)[place]
            assert torch.equal(gather(trade, Goods.LATENTS, mine, rows), whole)
            some = wide.split(columns, dim=1)[place]
            found = to_rows(trade, Goods.HEADS, some, rows, columns, place)
            assert torch.equal(found, wide.split(rows)[place])
        return trade.traffic

    for rank, traffic in enumerate(run_trades(ranks, work, piece, backend=backend)):
        assert traffic[Goods.LATENTS] == 4 * rows[rank] * WIDTH * 4 * (ranks - 1)
        away = sum(rows) - rows[rank]
        assert traffic[Goods.HEADS] == 4 * away * columns[rank] * 4


def test_what_came_is_the_callers_own() -> None:
    def work(trade: SharedTrade, company: Fixed) -> Any:
        trade.begin(Step(0, 0))
        x = torch.full((2, WIDTH), float(trade.rank))
        first = gather(trade, Goods.LATENTS, x, [2, 2])
        for _ in range(3):
            gather(trade, Goods.LATENTS, x + 7, [2, 2])
        return first[:, 0].tolist()

    assert run_trades(2, work, 1000) == [[0, 0, 1, 1]] * 2


def test_who_begins_another_step_shares_with_nobody() -> None:
    def work(trade: SharedTrade, company: Fixed) -> Any:
        sharers = trade.begin(Step(5, 7 if trade.rank != 1 else 8))
        x = torch.full((1, 1), float(trade.rank))
        return sharers, gather(trade, Goods.LATENTS, x, [1] * sharers.ranks).flatten().tolist()

    found = run_trades(3, work)
    assert found[0] == (Sharers(0, 2), [0, 2])
    assert found[1] == (Sharers(0, 1), [1])
    assert found[2] == (Sharers(1, 2), [0, 2])


def test_who_is_ahead_lets_the_others_go_first() -> None:
    def work(trade: SharedTrade, company: Fixed) -> Any:
        if trade.rank == 2:
            return trade.begin(Step(4, 7))
        with pytest.raises(BehindError):
            trade.begin(Step(5, 7))
        return None

    assert run_trades(3, work) == [None, None, Sharers(0, 1)]


@pytest.mark.parametrize("patient", [True, False])
def test_a_rank_that_dies_is_lost_to_all_that_wait_for_it(patient: bool) -> None:
    def work(trade: SharedTrade, company: Fixed) -> Any:
        trade.begin(Step(0, 0))
        x = torch.zeros(1, WIDTH)
        gather(trade, Goods.LATENTS, x, [1, 1, 1])
        if trade.rank == 1:
            return None
        if patient:
            company.ended.add(1)
        with pytest.raises(LostError) as caught:
            gather(trade, Goods.LATENTS, x, [1, 1, 1])
        return caught.value.args[0]

    assert run_trades(3, work, patience_s=60 if patient else 0.3) == [{1}, None, {1}]


@pytest.mark.parametrize("wrong", ["goods", "rows"])
def test_ranks_that_hand_on_different_things_are_out_of_step(wrong: str) -> None:
    def work(trade: SharedTrade, company: Fixed) -> None:
        trade.begin(Step(0, 0))
        other = trade.rank == 1
        goods = Goods.HEADS if other and wrong == "goods" else Goods.LATENTS
        rows = [2, 2] if other and wrong == "rows" else [1, 1]
        with pytest.raises(OutOfStepError):
            gather(trade, goods, torch.zeros(rows[trade.rank], WIDTH), rows)

    run_trades(2, work, 1000)


def test_memories_that_differ_are_refused() -> None:
    other = OwnMemory(1, TradeSizes(2, 500).total)

    def work(trade: SharedTrade, company: Fixed) -> None:
        company.members = {**company.members, 1: other.member}
        with pytest.raises(ServingError, match="different memories"):
            trade.begin(Step(0, 0))

    run_trades(1, work)


def test_a_rank_that_is_gone_before_it_is_met_is_lost() -> None:
    gone = OwnMemory(1, TradeSizes(1, 100).total).member

    def work(trade: SharedTrade, company: Fixed) -> None:
        company.members = {**company.members, 1: gone}
        with pytest.raises(LostError):
            trade.begin(Step(0, 0))

    run_trades(1, work)
