"""A step costs what changes in it: counted in lines of Python executed, nothing is timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from control_world import FLAT, ask

from silva.control import handover, scheduler
from silva.control.entry import Entry
from silva.control.request import Plan, StepResult
from silva.control.state import Settings, State


class Counting(dict[str, Entry]):
    """Entries that count how often one of them is reached; nobody may walk through all."""

    reached = 0

    def __getitem__(self, key: str) -> Entry:
        self.reached += 1
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        raise AssertionError("a step must not walk through all requests")

    items = values = keys = __iter__


def lines(work: Callable[[], object]) -> int:
    """Lines executed in the package while `work` runs."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if "control" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def crowd(size: int, *, answer: int = 900, block_tokens: int = 1024) -> State:
    """`size` requests that decode, none of which changes soon."""
    state = State(
        Settings(
            blocks=4 * size + 64,
            context_tokens=2048,
            block_tokens=block_tokens,
            step_tokens=size + 64,
            max_running=size + 32,
            target_s=1.0,
        )
    )
    for number in range(size):
        request = ask(f"{number}", 3, answer=answer)
        assert handover.reserve(state, request, (), FLAT)
        assert handover.commit(state, request.id)
    step(state)
    assert state.decoding == size
    return state


def step(state: State, finished: tuple[tuple[str, Any], ...] = ()) -> Plan:
    plan = scheduler.schedule(state, 0.0, FLAT)
    scheduler.update(state, StepResult(plan.step, 0.0, finished))
    return plan


@pytest.fixture(scope="module")
def small() -> State:
    return crowd(10)


@pytest.fixture(scope="module")
def large() -> State:
    return crowd(10_000)


def test_a_step_in_which_nothing_changes(small: State, large: State) -> None:
    large.entries = Counting(large.entries.copy())
    costs = [lines(lambda state=state: step(state)) for state in (small, large)]
    assert costs[0] == costs[1] < 120
    assert large.entries.reached == 0


@pytest.mark.parametrize("changes", [1, 8])
def test_a_step_in_which_some_join_and_some_leave(small: State, large: State, changes: int) -> None:
    costs = []
    for state in (small, large):
        names = [f"new {changes} {number}" for number in range(changes)]

        def come_and_go(state: State = state, names: list[str] = names) -> None:
            for name in names:
                scheduler.add(state, ask(name, 3, answer=99))
            step(state)
            step(state, tuple((name, "stop") for name in names))
            step(state)

        costs.append(lines(come_and_go))
        assert not set(names) & set(dict.keys(state.entries))
    # Heaps and their tidying are in C, or spread over many steps; lines stay nearly the same.
    assert costs[1] <= 1.1 * costs[0] and costs[1] < 200 + 700 * changes


def test_blocks_are_given_to_those_that_need_one() -> None:
    costs = {}
    for size in (64, 1024):
        state = crowd(size, block_tokens=256, answer=1500)
        for number in range(8):  # these need their second block 8 steps before all others
            request = ask(f"long {number}", 11, answer=900)
            assert handover.reserve(state, request, (), FLAT) and handover.commit(state, request.id)
        given = []
        while not given:
            plan: list[Plan] = []
            cost = lines(lambda state=state, plan=plan: plan.append(step(state)))
            given = [name for name, _ in plan[0].blocks if len(plan[0].joined) == 0]
        assert given == [f"long {number}" for number in range(8)]
        costs[size] = cost
    assert abs(costs[64] - costs[1024]) <= 8


def test_a_queue_without_room_costs_nothing(large: State) -> None:
    before = lines(lambda: step(large))
    for number in range(500):
        scheduler.add(large, ask(f"queued {number}", 2000, answer=9))
    step(large)
    assert lines(lambda: step(large)) < before + 250
    for number in range(500):
        scheduler.cancel(large, f"queued {number}")


def test_quiet_steps_are_advanced_together(small: State, large: State) -> None:
    for state in (small, large):
        step(state)
        quiet = scheduler.quiet_steps(state)
        assert quiet > 500
        assert lines(lambda state=state: scheduler.advance(state, 400)) < 60
