"""Shared cores: who runs how fast, and when tasks end."""

from __future__ import annotations

import pytest

from silva.reality.cores import Cores, Task


def ends(cores: Cores, tasks: dict[str, Task]) -> dict[str, float]:
    """When each of the tasks, all begun now, is over."""
    found: dict[str, float] = {}
    for name, task in tasks.items():
        task.end = lambda name=name: found.setdefault(name, cores.now_s)  # type: ignore[misc]
        cores.add(task)
    while cores.next_s() < float("inf"):
        for task in cores.advance(cores.next_s()):
            task.end()
    return found


def task(left_s: float, engine: str = "", beside: float = 1.0, threads: int = 1) -> Task:
    return Task(left_s, lambda: None, threads, engine, beside)


def test_tasks_with_a_core_each_do_not_disturb_each_other() -> None:
    found = ends(Cores(2), {"a": task(1.0), "b": task(2.0)})
    assert found == pytest.approx({"a": 1.0, "b": 2.0})


def test_threads_share_the_cores_once_there_are_more() -> None:
    # three on two cores: two thirds each for 1.5 s, then two with a core each
    found = ends(Cores(2), {"a": task(1.0), "b": task(2.0), "c": task(2.0)})
    assert found == pytest.approx({"a": 1.5, "b": 2.5, "c": 2.5})


def test_all_work_is_done_at_the_rate_of_the_cores() -> None:
    found = ends(Cores(2), {str(n): task(0.1 * n, threads=2) for n in range(1, 6)})
    assert max(found.values()) == pytest.approx(sum(0.1 * n * 2 for n in range(1, 6)) / 2)


def test_engines_are_slower_beside_each_other_only() -> None:
    alone = ends(Cores(2), {"a": task(1.0, "p", 2.0), "b": task(3.0)})
    assert alone == pytest.approx({"a": 1.0, "b": 3.0})
    both = ends(Cores(2), {"a": task(1.0, "p", 2.0), "b": task(1.0, "d", 1.5)})
    # b runs at 1 / 1.5 to its end at 1.5 s; a has done 0.75 by then
    assert both == pytest.approx({"a": 1.75, "b": 1.5})


def test_sharing_that_was_measured_is_not_counted_twice() -> None:
    # two engines of two threads on two cores: measured beside each other, each took twice as long
    found = ends(Cores(2, 2.0), {n: task(1.0, n, 2.0, threads=2) for n in "ab"})
    assert found == pytest.approx({"a": 2.0, "b": 2.0})
