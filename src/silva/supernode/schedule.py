"""A small list schedule: tasks wait for their resource and for the tasks they follow.

Each resource works through its tasks in the order they are listed. With that order fixed, start and
end are sums and maxima of durations, so that a longer task never ends anything earlier, and a
faster link never slows a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """One operator of one microbatch in one layer, on one resource."""

    name: str
    resource: str
    seconds: float
    after: tuple[int, ...] = ()
    """Places in the list of tasks that have to end first, all of them before this one."""
    layer: int = 0
    microbatch: int = 0
    also: str = ""
    """A second resource that it occupies for as long; empty for none."""


@dataclass(frozen=True, slots=True)
class Event:
    """When a task ran, seconds from the start of the step."""

    task: Task
    start_s: float
    end_s: float


def run(tasks: Sequence[Task], start_s: float = 0.0) -> list[Event]:
    """Start and end of every task, in the order of the list."""
    free: dict[str, float] = {}
    ends: list[float] = []
    events = []
    for task in tasks:
        start = free.get(task.resource, start_s)
        for place in task.after:
            start = max(start, ends[place])
        if task.also:
            start = max(start, free.get(task.also, start_s))
            free[task.also] = start + task.seconds
        end = start + task.seconds
        free[task.resource] = end
        ends.append(end)
        events.append(Event(task, start, end))
    return events


def makespan_s(events: Sequence[Event]) -> float:
    """When the last of the events ends."""
    return max((event.end_s for event in events), default=0.0)


def busy_s(events: Sequence[Event]) -> dict[str, float]:
    """Seconds that each resource works."""
    busy: dict[str, float] = {}
    for event in events:
        resource = event.task.resource
        busy[resource] = busy.get(resource, 0.0) + event.task.seconds
    return busy
