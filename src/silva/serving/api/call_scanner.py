"""Reads one tool call, a JSON object, character by character, so that arguments can be streamed.

{"name": "weather", "arguments": {"city": "Bern"}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

NAME_KEYS = frozenset({"name"})
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
IGNORED_KEYS = frozenset({"type", "id"})

_MAX_NAME = 64
_SPACE = frozenset(" \t\r\n")


class _NotACallError(Exception):
    """The text is not a tool call."""


@dataclass(frozen=True)
class CallStart:
    """A call begins: of this function."""

    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of the arguments' JSON, as the model wrote it."""

    text: str


CallEvent = CallStart | CallArguments

_Where = Literal["open", "key", "in key", "colon", "value", "in value", "comma", "done"]


class CallScanner:
    """One call. The name is known before its arguments, in whatever order the model says them."""

    def __init__(self) -> None:
        self._where: _Where = "open"
        self._key = ""
        self._value = ""
        self._depth = 0
        self._in_string = self._escaped = self._quoted = False
        self._name: str | None = None
        self._early: list[str] = []
        self._any_arguments = False
        self._events: list[CallEvent] = []
        self.failed = False

    @property
    def done(self) -> bool:
        """Whether the object is closed."""
        return self._where == "done"

    @property
    def started(self) -> bool:
        """Whether a CallStart has been given out."""
        return self._name is not None and self._any_arguments

    def feed(self, text: str) -> tuple[list[CallEvent], int]:
        """(what is known now, how many characters belong to the call).

        Less than all of them do where the call is `done`, or `failed`: it is not a call.
        """
        self._events = []
        for position, character in enumerate(text):
            if self.done or self.failed:
                return _joined(self._events), position
            try:
                self._take(character)
            except _NotACallError:
                self.failed = True
                return _joined(self._events), position
        return _joined(self._events), len(text)

    def _take(self, character: str) -> None:
        match self._where:
            case "in value":
                self._in_value(character)
            case "in key":
                self._in_key(character)
            case _ if character in _SPACE:
                pass
            case "open":
                self._expect(character, "{", "key")
            case "key":
                self._key = character
                self._expect(character, '"', "in key")
            case "colon":
                self._expect(character, ":", "value")
            case "value":
                self._begin_value(character)
            case "comma" if character == "}":
                self._finish()
            case _:
                self._expect(character, ",", "key")

    def _expect(self, character: str, wanted: str, then: _Where) -> None:
        if character != wanted:
            raise _NotACallError(f"{wanted} expected")
        self._where = then

    def _in_key(self, character: str) -> None:
        self._key += character
        if character == '"':
            self._key = self._key[1:-1]
            if self._key not in NAME_KEYS | ARGUMENT_KEYS | IGNORED_KEYS:
                raise _NotACallError("another key than a call has")
            self._where = "colon"
        elif len(self._key) > _MAX_NAME:
            raise _NotACallError("a key too long for a call")

    def _begin_value(self, character: str) -> None:
        if character in ",:}]":
            raise _NotACallError("a value expected")
        self._where, self._value, self._depth = "in value", "", 0
        self._in_string = self._escaped = False
        if self._key in ARGUMENT_KEYS:
            if self._any_arguments or character not in '{"':
                raise _NotACallError("arguments are an object, once")
            self._quoted = character == '"'
        self._in_value(character)

    def _in_value(self, character: str) -> None:
        """One more character of a value; a bare word or number ends before the one that follows."""
        outside = not self._in_string and self._depth == 0 and self._value
        if outside and (character in ",}" or character in _SPACE):
            self._end_value()
            self._take(character)
            return
        self._nest(character)
        self._value += character
        if self._key in ARGUMENT_KEYS and not self._quoted:
            self._pass_on(character)
            self._value = self._value[:1]  # what was passed on need not be kept
        if self._depth == 0 and not self._in_string and self._value[0] in '{["':
            self._end_value()

    def _nest(self, character: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1

    def _end_value(self) -> None:
        self._where = "comma"
        if self._key in NAME_KEYS:
            self._found_name(_string(self._value))
        elif self._key in ARGUMENT_KEYS and self._quoted:
            self._pass_on(_string(self._value))

    def _found_name(self, name: str) -> None:
        if self._name is not None or not 0 < len(name) <= _MAX_NAME:
            raise _NotACallError("a call has one name")
        self._name = name
        if self._any_arguments:
            self._events.append(CallStart(name))
            self._events.append(CallArguments("".join(self._early)))

    def _pass_on(self, text: str) -> None:
        """Give out a part of the arguments, or keep it until the name is known."""
        first, self._any_arguments = not self._any_arguments, True
        if self._name is None:
            self._early.append(text)
            return
        if first:
            self._events.append(CallStart(self._name))
        self._events.append(CallArguments(text))

    def _finish(self) -> None:
        if self._name is None:
            raise _NotACallError("a call without a name")
        if not self._any_arguments:
            self._pass_on("{}")
        self._where = "done"


def _string(literal: str) -> str:
    try:
        value = json.loads(literal)
    except (ValueError, RecursionError) as error:
        raise _NotACallError("a broken text") from error
    if not isinstance(value, str):
        raise _NotACallError("not a text")
    return value


def _joined(events: list[CallEvent]) -> list[CallEvent]:
    """Neighbouring parts of one call's arguments as one."""
    joined: list[CallEvent] = []
    for event in events:
        before = joined[-1] if joined else None
        if isinstance(event, CallArguments) and isinstance(before, CallArguments):
            joined[-1] = CallArguments(before.text + event.text)
        else:
            joined.append(event)
    return joined
