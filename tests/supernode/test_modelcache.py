from __future__ import annotations

import pytest

from silva.supernode.modelcache import model_cache
from silva.supernode.system import load_system
from silva.supernode.workload import ModelLoad

SYSTEM = load_system("cloudmatrix-infer")


def test_instances_that_load_by_themselves_share_the_bucket() -> None:
    one, eight = (model_cache(SYSTEM, ModelLoad("none", instances=n)) for n in (1, 8))
    assert eight.cold_s == pytest.approx(8 * one.cold_s)
    assert (eight.warm_s, eight.dram_copies, eight.hit_rate) == (None, 0, 0.0)
    assert eight.switch_s == one.cold_s


def test_a_pool_loads_once_for_all() -> None:
    one, eight = (model_cache(SYSTEM, ModelLoad("ems", 8, n)) for n in (1, 8))
    assert one == eight
    assert (eight.dram_copies, eight.hit_rate) == (1, 1.0)
    assert eight.switch_s == eight.warm_s


def test_memory_of_the_instance_holds_one_of_its_models() -> None:
    found = model_cache(SYSTEM, ModelLoad("local", models=8, instances=8))
    assert (found.dram_copies, found.hit_rate) == (8, 0.125)
    assert found.warm_s is not None
    assert found.warm_s < found.switch_s < found.cold_s / 8
