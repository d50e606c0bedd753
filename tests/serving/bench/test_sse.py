from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.serving.bench import sse
from silva.serving.bench.sse import BadStreamError, EventReader

EVENTS: list[dict[str, Any]] = [{"a": 1}, {"text": "two\nlines: é"}, {}, {"choices": []}]


def stream(end: str = "\n") -> bytes:
    parts = [": a comment", "event: x", *(f"data: {json.dumps(e)}{end}" for e in EVENTS)]
    return f"{end}".join([*parts, f"data:[DONE]{end}", 'data: {"late": 1}', ""]).encode()


@given(st.lists(st.integers(0, 400), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int], end: str) -> None:
    whole, reader, found = stream(end), EventReader(), []
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    for start, stop in pairwise(places):
        found += reader.feed(whole[start:stop])
    assert found == EVENTS and reader.done


def test_an_event_counts_when_its_line_is_complete() -> None:
    reader = EventReader()
    assert reader.feed(b'data: {"a"') == [] and reader.feed(b": 1}") == []
    assert reader.feed(b"\n") == [{"a": 1}] and not reader.done


@pytest.mark.parametrize("line", [b"data: {", b"data: [1]", b"data: 5", b"data: \xff", b"data: x"])
def test_what_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(BadStreamError, match="JSON"):
        EventReader().feed(line + b"\n")


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    reader = EventReader()
    reader.feed(b"data: " + b"x" * 90)
    with pytest.raises(BadStreamError, match="more than 100 bytes"):
        reader.feed(b"x" * 10)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_events_or_an_error(parts: list[bytes]) -> None:
    reader = EventReader()
    try:
        for part in parts:
            assert all(isinstance(event, dict) for event in reader.feed(part))
    except BadStreamError:
        return
