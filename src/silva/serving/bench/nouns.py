"""What the parts of the benchmark hand to each other: requests planned, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field

UNFINISHED = "unfinished"
"""The error of a request that was still under way when the run was stopped."""


@dataclass(frozen=True)
class Planned:
    """One request of a schedule. A negative `index` is one of the warm-up.

    at_s: when it is to be sent, seconds after the start; a closed loop does not look at it.
    input_tokens: tokens of its own, behind those of the shared prefix.
    key: number of the API key it comes with. prefix: number of its shared prefix, None for none.
    blocks: what the first blocks of the prompt hold, equal numbers for equal content (a trace's
    hash ids).
    """

    index: int
    at_s: float
    input_tokens: int
    output_tokens: int
    key: int = 0
    prefix: int | None = None
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Dialect:
    """What the server understands beyond the plain API; each part is left out where it is refused.

    tokens: prompts as token ids. usage: a last event with the tokens counted. ignore_eos: answers
    of just the length asked for. token_ids: events that say how many tokens they bring.
    """

    tokens: bool = False
    usage: bool = False
    ignore_eos: bool = False
    token_ids: bool = False


@dataclass
class Outcome:
    """What came of one request. Times are seconds after the start of the run.

    scheduled_s is when the request was due, started_s when it was really sent. tokens_s has the
    arrival of every token, or of every event where the server does not say how many tokens it
    brings. The counts are the server's own, None where it gives none.
    """

    planned: Planned
    scheduled_s: float
    started_s: float = 0.0
    finished_s: float = 0.0
    tokens_s: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    error: str = UNFINISHED
    """The kind of what went wrong, "" for nothing: "http 429", "timeout", "connection", "broken off",
    "bad answer", "error event", "empty answer"; `message` has the details."""
    message: str = ""
    timings: dict[str, float | None] = field(default_factory=dict)
    """Where the server says that its time went, in milliseconds; silva does, if asked to."""

    @property
    def good(self) -> bool:
        """The whole answer came."""
        return not self.error

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer: the server's count, else the events that brought some."""
        counted = self.completion_tokens
        return len(self.tokens_s) if counted is None else counted

    @property
    def ttft_s(self) -> float | None:
        """From the moment it was due to the first token."""
        return self.tokens_s[0] - self.scheduled_s if self.tokens_s else None

    @property
    def tpot_s(self) -> float | None:
        """Mean time of a token after the first; None for answers of one token."""
        if len(self.tokens_s) < 2 or self.output_tokens < 2:
            return None
        return (self.tokens_s[-1] - self.tokens_s[0]) / (self.output_tokens - 1)

    @property
    def end_to_end_s(self) -> float:
        """From the moment it was due to the end of the answer."""
        return self.finished_s - self.scheduled_s

    @property
    def lag_s(self) -> float:
        """How late the load generator itself was."""
        return self.started_s - self.scheduled_s
