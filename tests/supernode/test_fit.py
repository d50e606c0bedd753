from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from silva.supernode.cost.exchange import Traffic, combine_op, dispatch_op, slowdown
from silva.supernode.fit import fitted, gemm_errors, grouped_errors, imbalance
from silva.supernode.hardware import load_hardware
from silva.supernode.sourced import spec_names
from silva.supernode.system import load_system

FITTED_SYSTEMS = [name for name in spec_names("systems") if load_system(name).balance_ratio]


@pytest.mark.parametrize("name", spec_names())
def test_frozen_parameters_are_what_the_tables_give(name: str) -> None:
    hw = load_hardware(name)
    assert hw.fitted == fitted(hw)


@pytest.mark.parametrize("name", FITTED_SYSTEMS)
def test_the_frozen_imbalance_is_what_its_ratio_gives(name: str) -> None:
    system = load_system(name)
    assert system.imbalance == imbalance(system)


def test_the_fit_starts_from_nothing_that_is_frozen() -> None:
    hw = load_hardware("cloudmatrix384")
    other = replace(hw.fitted, gemm_compute=0.5, gemm_overlap=3.0, dispatch_token_us=9.0)
    assert fitted(replace(hw, fitted=other)) == hw.fitted


def test_large_products_are_reproduced() -> None:
    assert np.max(np.abs(gemm_errors(load_hardware("cloudmatrix384")))) < 0.05


def test_products_with_few_rows_are_reproduced() -> None:
    """The bins are coarse; the first of them reaches from a few tokens to 256."""
    assert np.median(np.abs(grouped_errors(load_hardware("cloudmatrix384")))) < 0.1


@pytest.mark.parametrize("row", load_hardware("cloudmatrix384").tables.exchange, ids=str)
def test_dispatch_and_combine_are_reproduced(row: tuple[float, ...]) -> None:
    hw = load_hardware("cloudmatrix384")
    traffic = Traffic(row[1], 8, int(row[0]))
    assert dispatch_op(hw, traffic, 1.0).seconds * 1e6 == pytest.approx(row[2], rel=0.035)
    assert combine_op(hw, traffic, 1.0).seconds * 1e6 == pytest.approx(row[3], rel=0.035)


def test_dispatch_of_few_tokens_as_the_sibling_measures_it() -> None:
    """xDeepServe, EP128: about 20 us at 4 tokens a die, read from a plot. Nothing is fitted on it."""
    few = dispatch_op(load_hardware("cloudmatrix384"), Traffic(4, 8, 128), 1.0)
    assert few.seconds * 1e6 == pytest.approx(20, rel=0.15)


def test_two_cores_copy_at_a_good_part_of_the_rate() -> None:
    hw = load_hardware("cloudmatrix384")
    assert slowdown(hw, 2 / 48) == pytest.approx(2.5, rel=1e-3)
    assert slowdown(hw, 1.0) == 1.0
