"""Tool calls in a model's answer, as two families of models write them.

hermes      <tool_call>{"name": ..., "arguments": {...}}</tool_call>, among text (Hermes, Qwen)
llama3      the whole answer is {"name": ..., "parameters": {...}}; several with ";" between

What looks like a call and turns out not to be one becomes text again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

from silva.serving.api.call_scanner import (
    CallEvent,
    CallScanner,
    CallStart,
)
from silva.serving.api.marks import overlap

ToolFormat = Literal["hermes", "llama3"]

OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"

_BETWEEN = " \t\r\n;"
_State = Literal["text", "call", "closing", "broken", "plain", "dropping"]


@dataclass(frozen=True)
class Content:
    """Text for the reader."""

    text: str


ToolEvent = Content | CallEvent


def format_of(chat_template: str) -> ToolFormat:
    """How the model of this template writes calls; Hermes' way where it does not say."""
    if OPEN in chat_template:
        return "hermes"
    return "llama3" if '"parameters"' in chat_template or PYTHON_TAG in chat_template else "hermes"


class ToolParser:
    """Splits an answer into text and calls, as it comes; how it is cut into pieces changes nothing.

    Every character is looked at once: an answer cannot keep the event loop busy.
    """

    def __init__(self, kind: ToolFormat, *, only_one: bool = False) -> None:
        """`only_one`: whatever follows the first call is dropped."""
        self._kind, self._only_one = kind, only_one
        self._state: _State = "text"
        self._buffer = ""
        self._scanner = CallScanner()
        self._raw = ""
        """The open call as it was written, for when it turns out to be text."""
        self.calls = 0

    def push(self, text: str) -> list[ToolEvent]:
        """What is certain now."""
        self._buffer += text
        events: list[ToolEvent] = []
        moved = True
        while moved and self._buffer:
            moved = self._step(events)
        return events

    def finish(self) -> list[ToolEvent]:
        """What was held back, when the answer has ended."""
        rest, self._buffer = self._buffer, ""
        if self._state == "call" and not self._scanner.started:
            return [Content(self._raw)]
        if self._state == "text" and rest and not (self.calls and not rest.strip(_BETWEEN)):
            return [Content(rest)]
        return []

    def _step(self, events: list[ToolEvent]) -> bool:
        """Take something from the buffer; whether it is worth another try."""
        match self._state:
            case "call":
                return self._in_call(events)
            case "closing":
                return self._close()
            case "broken":
                return self._skip()
            case "text" if self._kind == "hermes":
                return self._find_open(events)
            case "text":
                return self._begin(events)
            case "plain":
                events.append(Content(self._buffer))
        self._buffer = ""
        return False

    def _find_open(self, events: list[ToolEvent]) -> bool:
        """hermes: text up to the next call; white space before a call belongs to neither."""
        text, opened, rest = self._buffer.partition(OPEN)
        if opened:
            kept = text.rstrip()
            self._show(kept, events)
            self._open(text[len(kept) :] + OPEN, rest)
            return True
        kept = text[: len(text) - overlap(text, OPEN)].rstrip()
        self._show(kept, events)
        self._buffer = text[len(kept) :]
        return False

    def _begin(self, events: list[ToolEvent]) -> bool:
        """llama3: at the beginning or behind a call, which decide what the rest is."""
        text = self._buffer.lstrip(_BETWEEN if self.calls else None)
        if PYTHON_TAG.startswith(text):  # not yet all of it, or nothing at all
            return False
        if text.startswith(PYTHON_TAG):
            text = text[len(PYTHON_TAG) :].lstrip()
            if not text:
                return False
        if text.startswith("{"):
            self._open(self._buffer[: len(self._buffer) - len(text)], text)
        else:
            self._state = "plain"
        return True

    def _open(self, mark: str, rest: str) -> None:
        self._scanner, self._raw = CallScanner(), mark
        self._state, self._buffer = "call", rest

    def _in_call(self, events: list[ToolEvent]) -> bool:
        before = self._scanner.started
        found, used = self._scanner.feed(self._buffer)
        events.extend(found)
        self._raw += self._buffer[:used]
        self._buffer = self._buffer[used:]
        self.calls += self._scanner.started and not before
        if self._scanner.failed:
            self._give_up(events)
        elif self._scanner.done:
            self._state = "dropping" if self._only_one else self._after
        return True

    def _give_up(self, events: list[ToolEvent]) -> None:
        """It is no call: text after all, unless a part of it has been given out as a call."""
        if not self._scanner.started:
            events.append(Content(self._raw))
            self._state = "text" if self._kind == "hermes" else "plain"
        elif self._kind == "hermes" and not self._only_one:
            self._state = "broken"
        else:
            self._state = "dropping"

    @property
    def _after(self) -> _State:
        return "closing" if self._kind == "hermes" else "text"

    def _close(self) -> bool:
        """hermes: the mark behind a call; a model that forgets it is forgiven."""
        self._buffer = self._buffer.lstrip()
        if self._buffer.startswith(CLOSE):
            self._buffer = self._buffer[len(CLOSE) :]
        elif CLOSE.startswith(self._buffer):
            return False
        self._state = "text"
        return True

    def _skip(self) -> bool:
        """hermes: what is left of a broken call goes nowhere, up to its closing mark."""
        _, closed, rest = self._buffer.partition(CLOSE)
        if closed:
            self._buffer, self._state = rest, "text"
            return True
        self._buffer = self._buffer[len(self._buffer) - overlap(self._buffer, CLOSE) :]
        return False

    @staticmethod
    def _show(text: str, events: list[ToolEvent]) -> None:
        if text:
            events.append(Content(text))


class AssembledCalls:
    """The calls of an answer as OpenAI shows them, whole and as changes to what was before."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def add(self, event: CallEvent) -> dict[str, Any]:
        """The entry of `delta.tool_calls` for this event."""
        if isinstance(event, CallStart):
            function = {"name": event.name, "arguments": ""}
            call = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
            self.calls.append(call)
            return {"index": len(self.calls) - 1, **call, "function": dict(function)}
        self.calls[-1]["function"]["arguments"] += event.text
        return {"index": len(self.calls) - 1, "function": {"arguments": event.text}}
