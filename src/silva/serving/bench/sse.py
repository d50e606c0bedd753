"""Server-sent events out of a stream of bytes, in pieces of any size."""

from __future__ import annotations

import json
from typing import Any

MAX_EVENT_BYTES = 1 << 22
DONE = "[DONE]"


class BadStreamError(Exception):
    """What arrives is no stream of JSON events."""


class EventReader:
    """Give it bytes as they come; it gives the events that they complete.

    An event is the JSON object of one `data:` line. Comments and other fields are passed over.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.done = False
        """The stream has said that it is complete."""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Events completed by `data`; BadStreamError for what is none or has no end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise BadStreamError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        found = []
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b":")
            text = value.strip()
            if name != b"data" or not text or self.done:
                continue
            if text == DONE.encode():
                self.done = True
            else:
                found.append(_object(text))
        return found


def _object(text: bytes) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadStreamError(f"not JSON: {text[:60]!r}") from error
    if not isinstance(event, dict):
        raise BadStreamError(f"not a JSON object: {text[:60]!r}")
    return event
