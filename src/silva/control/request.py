"""The nouns of serving: what is asked, what one step does, what came of it.

Server and simulator exchange only these. A request has tokens computed and tokens wanted, and every
step closes some of the gap: chunked prefill, prefix hits, drafts and preemption need no mode of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length"]
"""stop: an end token or, above the engine, a stop text. length: `max_tokens` or the context."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. The defaults are those of OpenAI's API.

    The draw for position p is a function of (seed, p) alone, so that a request that is computed
    again on another peer says the same.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, the model's own end tokens among them unless they are ignored."""
    logprobs: int | None = None
    """Alternatives reported for each token, 0 for that of the token alone, None for none."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str = ""
    """A grammar in llguidance's serialised form that the answer must follow; empty for none."""


@dataclass(frozen=True)
class Request:
    """One answer asked of one model. `prompt` holds token ids; nothing below the API knows text."""

    id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    arrival_s: float = 0.0
    priority: int = 0
    """Smaller is more urgent; equal priorities are served in order of arrival."""
    namespace: str = ""
    """Whose cached blocks it may share: those of the same namespace only."""
    path: tuple[str, ...] = ()
    """Digests of the adapters along the client's path, root first; empty for the base model."""
    emitted: tuple[int, ...] = ()
    """Tokens already given out, when another peer takes the request over."""
    attempt: int = 0
    """Counts the take-overs; messages of an older attempt are refused."""

    def limit(self, context_tokens: int) -> int:
        """Length, of prompt and answer together, at which it ends in such a context."""
        wanted = len(self.prompt) + self.sampling.max_tokens
        return wanted if wanted < context_tokens else context_tokens


class Chunk(NamedTuple):
    """Positions [start, stop) of a request's tokens that one step computes."""

    request: str
    start: int
    stop: int
    samples: bool
    """Whether the last position's logits choose a token."""


class Plan(NamedTuple):
    """What one step does. Requests that merely go on decoding are not listed: a step's plan is the
    difference to the one before, so that its cost is that of what changed.
    """

    step: int
    joined: tuple[str, ...] = ()
    """Requests that decode from this step on, one token a step, until they leave."""
    left: tuple[str, ...] = ()
    """Requests that no longer decode: finished, cancelled or preempted."""
    preempted: tuple[str, ...] = ()
    """Those of `left`, and of the chunks before, whose blocks were taken: they compute again."""
    chunks: tuple[Chunk, ...] = ()
    blocks: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Blocks given to requests in this step, appended to the table that they have."""
    decoding: int = 0
    """Requests that decode in this step."""
    tokens: int = 0
    """Positions computed in this step, decoding ones among them, drafts not."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block of the pool that is complete, its key, and whose it is."""

    key: bytes
    block: int
    namespace: str
    """`Request.namespace` of the request that made it: others may not find it."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability (natural), and those of the likeliest alternatives."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Sampled:
    """What one request was given in one step: one token, and one more for each right draft."""

    request: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    """One a token where they were asked for."""
    draft: int | None = None
    """A guess of the token that comes next, where the request does not decode yet."""


class StepResult(NamedTuple):
    """What the runner hands back. Only what ends or fails has to be listed for the scheduler; the
    sampled tokens go past it, to whoever asked.
    """

    step: int
    seconds: float
    finished: tuple[tuple[str, FinishReason], ...] = ()
    """Requests whose sampled token ended them: an end token. Lengths the scheduler knows itself."""
    more: tuple[tuple[str, int], ...] = ()
    """Decoding requests that were given more than one token, and how many more: their right drafts."""


@dataclass(frozen=True)
class Phases:
    """When a request passed which point, seconds on the clock of the front; None: not yet.

    arrival -> (queue) -> prefill_start -> (prefill) -> prefill_done -> (transfer) -> joined ->
    first_decode -> ... -> finished.
    """

    arrival_s: float = 0.0
    prefill_start_s: float | None = None
    prefill_done_s: float | None = None
    joined_s: float | None = None
    first_decode_s: float | None = None
    finished_s: float | None = None


@dataclass(frozen=True)
class Output:
    """What a request's owner hears after a step: new tokens, and at the end why it ended."""

    request: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    cached_tokens: int = 0
    """Tokens of the prompt whose KV came from a cache."""
    phases: Phases = field(default_factory=Phases)
