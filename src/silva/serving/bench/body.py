"""Requests in OpenAI's shape, and what the events of an answer say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from silva.serving.bench.config import BenchConfig
from silva.serving.bench.nouns import Dialect, Outcome, Planned
from silva.serving.bench.prompts import Prompts

_MOST_COUNTED = 1 << 53
"""Tokens that a server may claim; sums of larger numbers would not fit a float."""


class Bodies:
    """Bodies of requests for one server, in its dialect."""

    def __init__(self, config: BenchConfig, model: str, dialect: Dialect) -> None:
        self._chat, self._model, self._dialect = config.endpoint == "chat", model, dialect
        self._prompts = Prompts(config.work, config.seed)

    def encode(self, planned: Planned) -> bytes:
        """JSON of a streamed request."""
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": planned.output_tokens,
            "temperature": 0,
            "stream": True,
            **self._prompt(planned),
        }
        if self._dialect.usage:
            body["stream_options"] = {"include_usage": True}
        if self._dialect.ignore_eos:
            body["ignore_eos"] = True
        if self._dialect.token_ids:
            body["return_token_ids"] = True
        return json.dumps(body, separators=(",", ":")).encode()

    def _prompt(self, planned: Planned) -> dict[str, Any]:
        if self._dialect.tokens:
            return {"prompt": self._prompts.tokens(planned)}
        text = self._prompts.text(planned)
        return {"messages": [{"role": "user", "content": text}]} if self._chat else {"prompt": text}


@dataclass
class Answer:
    """Collects one answer from its events into an outcome."""

    outcome: Outcome
    finished: bool = False
    """An event gave the reason why the answer ended."""
    failure: str = ""
    """What an event said went wrong."""

    def take(self, event: dict[str, Any], now_s: float) -> None:
        """One event that arrived at `now_s`. Whatever is of another shape counts as nothing."""
        error = event.get("error")
        if error:
            self.failure = str(error.get("message", error) if isinstance(error, dict) else error)
        self._usage(event.get("usage"))
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self.outcome.tokens_s += [now_s] * _tokens_in(choice)
                self.finished |= choice.get("finish_reason") is not None
                self._timings(choice.get("timings"))

    def _timings(self, told: Any) -> None:
        for name, value in told.items() if isinstance(told, dict) else ():
            if value is None or type(value) in (int, float):
                self.outcome.timings[str(name)] = value

    def _usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        outcome = self.outcome
        outcome.prompt_tokens = _count(usage.get("prompt_tokens"), outcome.prompt_tokens)
        outcome.completion_tokens = _count(
            usage.get("completion_tokens"), outcome.completion_tokens
        )
        outcome.cached_tokens = _count(cached, outcome.cached_tokens)


def _tokens_in(choice: dict[str, Any]) -> int:
    """Tokens that an event brings: as many as it has ids, else one if it has anything to read."""
    delta = choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    ids = choice.get("token_ids")
    if isinstance(ids, list):
        return len(ids)
    said = (choice.get("text"), *(delta.get(n) for n in ("content", "reasoning_content")))
    return int(any(said) or bool(delta.get("tool_calls")))


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_COUNTED else otherwise
