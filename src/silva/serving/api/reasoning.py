"""What a model thinks before it answers, told apart from the answer, as R1 and its kin write it.

    <think> reasoning </think> answer

Templates of today end the prompt with the opening mark, so that the answer begins inside; older ones
leave it to the model. White space around the marks belongs to neither part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from silva.serving.api.marks import overlap
from silva.serving.api.server import TextServer

OPEN, CLOSE = "<think>", "</think>"

_TAIL_TOKENS = 16
"""Of a prompt, among which an opening mark and white space behind it lie."""


@dataclass(frozen=True)
class Split:
    """A piece of an answer: what of it is reasoning and what is for the reader."""

    reasoning: str
    text: str


class ReasoningParser:
    """Splits an answer as it comes; how it is cut into pieces changes nothing."""

    def __init__(self, *, begun: bool) -> None:
        """`begun`: the prompt ends with an opening mark."""
        self._state: Literal["unknown", "thinking", "between", "text"] = (
            "thinking" if begun else "unknown"
        )
        self._buffer = ""
        self._bare = True
        """Whether no reasoning was shown yet: white space before it is dropped."""

    def push(self, text: str) -> Split:
        """What is certain now."""
        if self._state == "text":
            return Split("", text)
        self._buffer += text
        if self._state == "unknown":
            self._look_for_open()
        reasoning = self._reasoning() if self._state == "thinking" else ""
        return Split(reasoning, self._text())

    def finish(self) -> Split:
        """What was held back, when the answer has ended."""
        rest, self._buffer = self._buffer, ""
        if self._state == "thinking":
            return Split(rest.rstrip(), "")
        return Split("", rest if self._state == "unknown" else "")

    def _look_for_open(self) -> None:
        """An answer that begins otherwise has no reasoning, and keeps its white space."""
        begins = self._buffer.lstrip()
        if begins.startswith(OPEN):
            self._state, self._buffer = "thinking", begins[len(OPEN) :]
        elif not OPEN.startswith(begins):
            self._state = "text"

    def _reasoning(self) -> str:
        if self._bare:
            self._buffer = self._buffer.lstrip()
        shown, closed, rest = self._buffer.partition(CLOSE)
        if closed:
            self._state, self._buffer = "between", rest
            return shown.rstrip()
        kept = shown[: len(shown) - overlap(shown, CLOSE)].rstrip()
        self._bare = self._bare and not kept
        self._buffer = shown[len(kept) :]
        return kept

    def _text(self) -> str:
        if self._state == "between":
            self._buffer = self._buffer.lstrip()
            self._state = "text" if self._buffer else "between"
        if self._state != "text":
            return ""
        shown, self._buffer = self._buffer, ""
        return shown


def reasoning_parsers(
    server: TextServer, prompt: Sequence[int], grammar: str, count: int
) -> list[ReasoningParser | None]:
    """One for each answer to a prompt; None where reasoning is not looked for.

    That is where the model's template knows nothing of it, or the setting says so, and where the
    answer follows a grammar from its first token on.
    """
    chosen = server.settings.reasoning_format
    looks = CLOSE in server.text.chat_template if chosen == "auto" else chosen == "think"
    if grammar or not looks:
        return [None] * count
    tail = server.text.decode(prompt[-_TAIL_TOKENS:], skip_special=False)
    begun = tail.rstrip().endswith(OPEN)
    return [ReasoningParser(begun=begun) for _ in range(count)]
