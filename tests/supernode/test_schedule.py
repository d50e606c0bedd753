from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from silva.supernode.schedule import Task, busy_s, makespan_s, run


def test_a_task_waits_for_its_resource_and_for_what_it_follows() -> None:
    events = run(
        [
            Task("a", "x", 2.0),
            Task("b", "x", 1.0),
            Task("c", "y", 1.0, after=(0,)),
            Task("d", "y", 1.0, after=(1,), also="x"),
        ]
    )
    assert [(e.start_s, e.end_s) for e in events] == [(0, 2), (2, 3), (2, 3), (3, 4)]
    assert makespan_s(events) == 4.0
    assert busy_s(events) == {"x": 3.0, "y": 2.0}


def test_nothing_takes_no_time() -> None:
    assert makespan_s(run([])) == 0.0


@st.composite
def graphs(draw: st.DrawFn) -> list[Task]:
    tasks: list[Task] = []
    for place in range(draw(st.integers(1, 12))):
        after = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        resource, also = draw(st.permutations("xyz"))[:2]
        second = also if draw(st.booleans()) else ""
        seconds = draw(st.floats(0, 10))
        tasks.append(Task(str(place), resource, seconds, tuple(after), also=second))
    return tasks


@given(graphs(), st.data())
def test_a_longer_task_ends_nothing_earlier(tasks: list[Task], data: st.DataObject) -> None:
    before = run(tasks)
    place = data.draw(st.integers(0, len(tasks) - 1))
    longer = replace(tasks[place], seconds=tasks[place].seconds + data.draw(st.floats(0, 5)))
    after = run([*tasks[:place], longer, *tasks[place + 1 :]])
    assert all(a.end_s >= b.end_s for a, b in zip(after, before, strict=True))


@given(graphs())
def test_no_resource_does_two_things_at_once(tasks: list[Task]) -> None:
    events = run(tasks)
    for resource in "xyz":
        spans = sorted(
            (e.start_s, e.end_s) for e in events if resource in (e.task.resource, e.task.also)
        )
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert all(e.start_s >= events[place].end_s for e in events for place in e.task.after)
