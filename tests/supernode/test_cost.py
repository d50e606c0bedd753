from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.supernode.cost.attention import Queries, decode_attention, mean_context
from silva.supernode.cost.exchange import (
    Traffic,
    bulk_op,
    dispatch_op,
    distinct_nodes,
    interpolated,
    link_s,
)
from silva.supernode.cost.experts import expert_ops, placement
from silva.supernode.cost.links import (
    all_reduce_op,
    collective_op,
    hand_over_s,
    point_to_point_s,
    pool_read_s,
    storage_s,
    warm_load_s,
)
from silva.supernode.cost.operator import Matrix, matrix_s, norm
from silva.supernode.hardware import load_hardware
from silva.supernode.model import load_model
from silva.supernode.system import load_system

HW = load_hardware("cloudmatrix384")
SYSTEM = load_system("cloudmatrix-infer")
MB = 1e6


@given(st.floats(0, 1e3), st.floats(0, 1e3), st.floats(1, 50))
def test_a_norm_lies_between_the_larger_and_the_sum(a: float, b: float, p: float) -> None:
    value = norm(a, b, p)
    assert max(a, b) * (1 - 1e-9) <= value <= (a + b) * (1 + 1e-9) + 1e-300


@given(st.floats(1, 1e5), st.floats(1, 1e5), st.floats(0.05, 1.0))
def test_a_product_is_no_faster_with_more_rows_or_fewer_cores(
    rows: float, more: float, share: float
) -> None:
    few, many = sorted((rows, more))
    one = matrix_s(HW, Matrix(few, 4096, 7168), share)[0]
    assert one <= matrix_s(HW, Matrix(many, 4096, 7168), share)[0]
    assert matrix_s(HW, Matrix(few, 4096, 7168))[0] <= one


def test_one_row_takes_the_reading_of_the_weights() -> None:
    work = Matrix(1, 7168, 16384)
    assert matrix_s(HW, work)[0] == pytest.approx(work.weights / HW.memory_bps, rel=0.02)


def test_the_attention_core_of_the_paper() -> None:
    """Section 4.3: 48 query tokens at 4,096 on 16 of 24 cores are 334 us of arithmetic."""
    queries = Queries(requests=0, tokens=48, kv_len=4096)
    ops = {op.name: op for op in decode_attention(SYSTEM, queries, 16 / 24, 1)}
    seconds = ops["attention"].seconds - HW.static.matrix_us * 1e-6
    assert seconds * 1e6 == pytest.approx(334, rel=0.01)


def test_expert_time_of_the_sibling() -> None:
    """xDeepServe: 160 dies with 96 tokens each on 256 routed dies are about 0.12 ms a layer."""
    place = placement(load_model("deepseek-r1"), dies=288, redundant=0, shared_dies=32)
    ops = expert_ops(SYSTEM, place, 96 * 160 / 288, 1.0, 1.0)
    assert sum(op.seconds for op in ops) * 1e3 == pytest.approx(0.12, rel=0.15)


def test_experts_are_spread_over_the_dies_that_hold_routed_ones() -> None:
    model = load_model("deepseek-r1")
    apart = placement(model, 320, 32, 32)
    assert (apart.routed_dies, apart.slots, apart.copies, apart.shared) == (288, 1.0, 1, False)
    beside = placement(model, 32, 32, 0)
    assert (beside.routed_dies, beside.slots, beside.copies, beside.shared) == (32, 9.0, 0, True)


def test_mean_context() -> None:
    assert mean_context(4096, 0.0) == 2048
    assert mean_context(4096, 0.5) == 3072


def test_nothing_on_the_own_package_takes_the_links() -> None:
    assert link_s(HW, MB, 2) == 0.0
    assert link_s(HW, MB, 16) == pytest.approx(MB * 14 / 16 / 137e9)
    assert link_s(HW, MB, 320) == pytest.approx(MB * (14 / 320 / 137e9 + 304 / 320 / 135e9))


@given(st.integers(1, 400), st.integers(1, 400), st.floats(1, 200))
def test_more_ranks_are_never_faster(ranks: int, more: int, tokens: float) -> None:
    few, many = sorted((ranks, more))
    times = [dispatch_op(HW, Traffic(tokens, 8, n), 1.0).seconds for n in (few, many)]
    assert times[0] <= times[1] * (1 + 1e-12)


def test_a_rate_between_two_rows_and_beyond_them() -> None:
    assert interpolated(HW.tables.bulk, 32, 1) == 102
    assert 81 < interpolated(HW.tables.bulk, 48, 1) < 102
    assert interpolated(HW.tables.bulk, 4, 1) == 146
    assert interpolated(HW.tables.bulk, 1024, 2) == 81


def test_a_token_that_travels_once_to_each_node() -> None:
    h800 = load_hardware("h800")
    every = replace(h800, exchange=replace(h800.exchange, once_per_node=0))
    traffic = Traffic(1024, 8, 32)
    assert bulk_op(h800, "dispatch", traffic).seconds < bulk_op(every, "dispatch", traffic).seconds
    assert distinct_nodes(8, 4) == pytest.approx(4 * (1 - 0.75**8))
    assert distinct_nodes(8, 1) == 1.0


@pytest.mark.parametrize(
    ("same", "read", "rate", "first"),
    [(0, 1, 164, 1.9), (0, 0, 135, 2.1), (1, 1, 167, 1.2), (1, 0, 137, 1.3)],
)
def test_point_to_point(same: int, read: int, rate: float, first: float) -> None:
    seconds = point_to_point_s(HW, 1e9, bool(same), bool(read))
    assert seconds == pytest.approx(1 / rate + first * 1e-6)


def test_collectives() -> None:
    assert collective_op(HW, "x", 1e9, 1).seconds == 0.0
    assert collective_op(HW, "x", 1e9, 32).seconds == pytest.approx(31 / 32 / 135 + 1e-5)
    assert all_reduce_op(HW, 1e9, 8).seconds == pytest.approx(2 * 7 / 8 / 137 + 1e-5)


def test_the_hand_over_of_the_paper() -> None:
    """Section 4.6: 4,096 tokens in BF16 over a die's 25 GB/s nominal are 11.5 ms."""
    assert hand_over_s(HW, 4096 * 70_272) * HW.fitted.network * 1e3 == pytest.approx(11.5, rel=0.01)


def test_loading_a_model() -> None:
    assert storage_s(HW, 671e9) * HW.fitted.network == pytest.approx(268.4)
    assert storage_s(HW, 671e9, readers=8) == pytest.approx(8 * storage_s(HW, 671e9))
    assert warm_load_s(HW, 671e9) == pytest.approx(5.0, rel=0.01)


@given(st.floats(0, 1e5))
def test_the_pool_is_faster_over_ub(tokens: float) -> None:
    ub, vpc = (pool_read_s(HW, tokens, 70_272, plane) for plane in ("ub", "vpc"))
    assert ub <= vpc
    assert math.isfinite(vpc)
