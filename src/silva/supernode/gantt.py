"""A step's events as a picture and as a Chrome trace (chrome://tracing, Perfetto)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from silva.supernode.schedule import Event

_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")


def window(events: Sequence[Event], layers: range) -> list[Event]:
    """The events of some layers, moved so that the first of them starts at 0."""
    kept = [event for event in events if event.task.layer in layers and event.task.seconds > 0]
    start = min((event.start_s for event in kept), default=0.0)
    return [Event(event.task, event.start_s - start, event.end_s - start) for event in kept]


def chrome_trace(events: Sequence[Event], title: str) -> dict[str, Any]:
    """The Trace Event Format: a row for each resource, microbatch and layer as arguments."""
    lanes = {name: place for place, name in enumerate(_resources(events))}
    named: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": title}}
    ]
    for name, place in lanes.items():
        named.append(
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": place, "args": {"name": name}}
        )
    spans = [
        {
            "name": event.task.name,
            "cat": f"microbatch {event.task.microbatch}",
            "ph": "X",
            "pid": 0,
            "tid": lanes[event.task.resource],
            "ts": event.start_s * 1e6,
            "dur": (event.end_s - event.start_s) * 1e6,
            "args": {"layer": event.task.layer, "microbatch": event.task.microbatch},
        }
        for event in events
    ]
    return {"traceEvents": named + spans, "displayTimeUnit": "ms"}


def write_trace(path: Path, events: Sequence[Event], title: str) -> None:
    """Writes the Chrome trace as JSON."""
    path.write_text(json.dumps(chrome_trace(events, title)))


def draw(target: Path | IO[bytes], events: Sequence[Event], title: str) -> None:
    """Draws the events, a lane for each resource, a colour for each microbatch."""
    from matplotlib.figure import Figure

    lanes = _resources(events)
    figure = Figure(figsize=(12, 1.2 + 0.7 * len(lanes)), layout="constrained")
    axes = figure.add_subplot()
    longest = max((event.end_s for event in events), default=0.0)
    for event in events:
        lane, width = lanes.index(event.task.resource), (event.end_s - event.start_s) * 1e6
        colour = _COLOURS[event.task.microbatch % len(_COLOURS)]
        start = event.start_s * 1e6
        axes.barh(lane, width, left=start, color=colour, edgecolor="white", linewidth=0.5)
        if width > longest * 1e6 / 45:
            axes.text(
                start + width / 2, lane, event.task.name, ha="center", va="center", fontsize=6
            )
    axes.set_yticks(range(len(lanes)), lanes)
    axes.invert_yaxis()
    axes.set_xlabel("microseconds")
    axes.set_title(title)
    figure.savefig(target, format="png", dpi=130)


def _resources(events: Sequence[Event]) -> list[str]:
    """Names of the resources, in the order in which they are first used."""
    return list(dict.fromkeys(event.task.resource for event in events))
