from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from silva.errors import ConfigError
from silva.supernode.balance import imbalance, with_popularity
from silva.supernode.decode import decode_step
from silva.supernode.system import load_system
from silva.supernode.workload import DecodeLoad

sys.path.insert(0, str(Path(__file__).parent))
from small import small_system

SYSTEM = load_system("cloudmatrix-infer")


def test_even_experts_are_in_balance() -> None:
    assert with_popularity(SYSTEM, 0.0, decode=True) is SYSTEM
    assert imbalance(64, 16, 0, 0.0) == pytest.approx(1.0)


def test_uneven_experts_cost_time_and_redundant_ones_save_some() -> None:
    few, many = imbalance(64, 16, 0, 1.0), imbalance(64, 16, 32, 1.0)
    assert 1.0 <= many < few
    assert imbalance(64, 16, 32, 0.5) <= many
    assert imbalance(64, 16, 32, 1.0) == many


def test_the_imbalance_is_that_of_the_steps() -> None:
    small = replace(SYSTEM, decode=replace(SYSTEM.decode, dies=32, shared_dies=0))
    skewed = with_popularity(small, 1.5, decode=True)
    assert skewed.imbalance != small.imbalance
    load = DecodeLoad(batch_per_npu=96.0)
    even = replace(small, imbalance=1.0)
    assert decode_step(skewed, load).tpot_s > decode_step(even, load).tpot_s


def test_a_dense_model_has_no_popular_experts() -> None:
    with pytest.raises(ConfigError, match="no experts"):
        with_popularity(small_system(), 1.0, decode=True)
