from __future__ import annotations

import json
from pathlib import Path

from silva.supernode.decode import decode_step
from silva.supernode.gantt import draw, window, write_trace
from silva.supernode.system import load_system
from silva.supernode.workload import DecodeLoad

EVENTS = decode_step(load_system("cloudmatrix-infer"), DecodeLoad()).events


def test_a_window_starts_at_zero() -> None:
    some = window(EVENTS, range(30, 32))
    assert {event.task.layer for event in some} == {30, 31}
    assert min(event.start_s for event in some) == 0.0
    assert window(EVENTS, range(0)) == []


def test_a_trace_has_every_event(tmp_path: Path) -> None:
    some = window(EVENTS, range(30, 31))
    write_trace(tmp_path / "trace.json", some, "a layer")
    spans = [
        each
        for each in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        if each["ph"] == "X"
    ]
    assert [each["name"] for each in spans] == [event.task.name for event in some]
    assert {each["args"]["microbatch"] for each in spans} == {0, 1}
    assert len({each["tid"] for each in spans}) == 2


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "layer.png", window(EVENTS, range(30, 31)), "a layer")
    assert (tmp_path / "layer.png").read_bytes().startswith(b"\x89PNG")
