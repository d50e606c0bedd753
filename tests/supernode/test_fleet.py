"""Limits of the instances of a cluster: those that the server would give its engines."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from silva.config import build
from silva.serving.config import ServeConfig
from silva.serving.make_engine import settings_for
from silva.supernode.cluster import Cluster
from silva.supernode.fleet import make_fleet
from silva.supernode.generate import Shape, generate

sys.path.insert(0, str(Path(__file__).parent))
from small import small_system

SYSTEM = small_system()
SPLIT = Cluster(prefill=2, decode=1, batch_per_npu=64, mtp=False)
TRAFFIC = generate(Shape(rate=40.0, seconds=6.0, prompt=1000.0, output=200.0))


def test_a_target_is_planned_for_as_the_server_plans_for_it() -> None:
    config = build(ServeConfig, {"step": {"tpot_target_s": 0.05}}, "test")
    server = settings_for(config, blocks=256, context_tokens=1024)
    (decode,) = make_fleet(replace(SPLIT, tpot_s=0.05), SYSTEM, TRAFFIC).decode
    assert server.step_s is not None
    assert decode.settings.step_s == pytest.approx(server.step_s)
    assert decode.settings.step_s < decode.settings.target_s == server.target_s


def test_without_a_target_steps_take_as_long_as_they_like() -> None:
    fleet = make_fleet(SPLIT, SYSTEM, TRAFFIC)
    assert [engine.settings.step_s for engine in fleet.engines] == [None] * 3
