"""One answer: the tokens of one request becoming text, with stop strings and the end token cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from silva.control.request import FinishReason, Output, Phases, TokenLogprob
from silva.serving.api.stop import StopText
from silva.serving.api.text import Decoder


@dataclass(frozen=True)
class TokenRecord:
    """A token of an answer, for logprobs and token ids."""

    token: int
    logprob: TokenLogprob | None
    offset: int
    """Where its text begins in the answer's, in characters."""
    ends: bool = False
    """Whether it is the end token, which stands for no text."""


@dataclass(frozen=True)
class Piece:
    """What one output adds to an answer. With stop strings, records come when their text does:
    before that it may still be cut.
    """

    text: str
    records: tuple[TokenRecord, ...] = ()
    finish: FinishReason | None = None


class Answer:
    """Collects the outputs of one request."""

    def __init__(
        self,
        decoder: Decoder,
        stops: Sequence[str] = (),
        end_tokens: Sequence[int] = (),
        *,
        keeps_records: bool = False,
    ) -> None:
        """`end_tokens`: those that end the answer when they come last, and are not shown."""
        self._decoder, self._stop = decoder, StopText(stops)
        self._end_tokens, self._keeps_records = frozenset(end_tokens), keeps_records
        self._may_cut = bool(stops)
        self._decoded = 0
        self._shown = 0
        self._records: list[TokenRecord] = []
        self.tokens = 0
        """Tokens of the answer, the end token and a stop string's among them."""
        self.cached_tokens = 0
        self.phases = Phases()
        self.finish: FinishReason | None = None

    def push(self, output: Output) -> Piece:
        """Text and records that are certain after this output. Nothing may follow a finish."""
        self.cached_tokens, self.phases = output.cached_tokens, output.phases
        last = len(output.tokens) - 1
        shown: list[str] = []
        for index, token in enumerate(output.tokens):
            logprob = output.logprobs[index] if index < len(output.logprobs) else None
            self.tokens += 1
            ends = index == last and output.finish == "stop" and token in self._end_tokens
            if self._keeps_records:
                self._records.append(TokenRecord(token, logprob, self._decoded, ends))
            if not ends and self._add(self._decoder.push(token), shown):
                return self._piece(shown, cut=True)
        if output.finish is None:
            return self._piece(shown)
        self.finish = output.finish
        if self._add(self._decoder.finish(), shown):
            return self._piece(shown, cut=True)
        shown.append(self._stop.finish())
        return self._piece(shown)

    def _add(self, text: str, shown: list[str]) -> bool:
        """Whether this text completes a stop string."""
        if not text:
            return False
        self._decoded += len(text)
        certain, stopped = self._stop.push(text)
        shown.append(certain)
        if stopped:
            self.finish = "stop"
        return stopped

    def _piece(self, shown: list[str], *, cut: bool = False) -> Piece:
        """`cut`: at a stop string, so that records of what follows it never come."""
        text = "".join(shown)
        self._shown += len(text)
        if not self._may_cut or (self.finish is not None and not cut):
            records, self._records = self._records, []
        else:
            records = [r for r in self._records if r.offset < self._shown]
            self._records = self._records[len(records) :]
        return Piece(text, tuple(records), self.finish)
