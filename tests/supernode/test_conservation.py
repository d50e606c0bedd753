"""What goes in comes out: tokens of prompts and answers, counted beside the simulation."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from silva.control import scheduler
from silva.control.integrity import check
from silva.control.request import Plan, StepResult
from silva.control.scheduler import Update
from silva.control.state import State
from silva.supernode import engine as engines
from silva.supernode.cluster import Cluster
from silva.supernode.fleet import make_fleet
from silva.supernode.generate import Shape, generate
from silva.supernode.simulate import Simulation

sys.path.insert(0, str(Path(__file__).parent))
from small import small_system

SYSTEM = small_system()
SPLIT = Cluster(prefill=2, decode=2, batch_per_npu=8, mtp=False)
CLUSTERS = [SPLIT, replace(SPLIT, prefill=0), replace(SPLIT, cache_gb=1000.0)]


class Count:
    """Stands before the scheduler and counts what steps give out and compute."""

    def __init__(self) -> None:
        self.given = self.computed = 0

    def update(self, state: State, result: StepResult) -> Update:
        plan = state.plan
        assert plan is not None
        self.given += plan.decoding + sum(chunk.samples for chunk in plan.chunks)
        self.computed += sum(chunk.stop - chunk.start for chunk in plan.chunks)
        out = scheduler.update(state, result)
        check(state)
        return out

    def begin(self, state: State, steps: int) -> Plan:
        self.given += (steps - 1) * state.decoding
        plan = scheduler.begin(state, steps)
        check(state)
        return plan

    def advance(self, state: State, steps: int) -> Update:
        self.given += steps * state.decoding
        out = scheduler.advance(state, steps)
        check(state)
        return out


@pytest.mark.parametrize("kind", ["bursty", "sessions"])
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_tokens_are_neither_lost_nor_made_up(
    kind: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = generate(Shape(kind=kind, rate=8.0, seconds=4.0, output=60.0, think_s=1.0), 3)
    count = Count()
    counted = {"update": count.update, "advance": count.advance, "begin": count.begin}
    names: dict[str, Any] = {**vars(scheduler), **counted}
    monkeypatch.setattr(engines, "scheduler", SimpleNamespace(**names))
    records = Simulation(cluster, SYSTEM, traffic, make_fleet(cluster, SYSTEM, traffic)).run()
    assert count.given == traffic.output.sum()
    assert count.computed == traffic.prompt.sum() - records.cached_tokens.sum()
