"""What `silva profile` measures of one model on one machine, as sections of the machine's spec file.

[steps] has the seconds of the engine's steps, each by itself and beside a busy engine of the other
role, [server] what a calm server adds to them. Everything here was measured; nothing is a fit to a
server under load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from silva.errors import ConfigError
from silva.supernode.curve import Curve
from silva.supernode.sourced import at_least, positive

Table = tuple[tuple[float, ...], ...]

PREFILL_COLUMNS = ("tokens", "tokens before", "ms alone", "ms beside decode")
DECODE_COLUMNS = ("requests", "tokens of each", "ms alone", "ms beside prefill")
JITTER_COLUMNS = ("share of steps", "times the median")


@dataclass(frozen=True)
class Steps:
    """Steps of one engine over one model. Times are medians of repeated steps."""

    model: str
    """What it was asked for by."""
    dtype: str
    prefill: Table
    """Columns: PREFILL_COLUMNS."""
    decode: Table
    """Columns: DECODE_COLUMNS."""
    prefill_jitter: Table
    """Columns: JITTER_COLUMNS. Repeated steps over the median of their kind."""
    decode_jitter: Table
    cores: int = positive()
    """Cores that all processes of the server share."""
    threads: int = positive()
    """Threads of one engine."""
    block_tokens: int = positive()
    head_ms: float = at_least(0)
    """What a chunk of a prompt takes less when no token is sampled after it."""

    def __post_init__(self) -> None:
        widths = {"prefill": 4, "decode": 4, "prefill_jitter": 2, "decode_jitter": 2}
        for name, width in widths.items():
            rows = getattr(self, name)
            if not rows or any(len(row) != width for row in rows):
                what = f"needs rows of {width} figures"
                raise ConfigError(what, where=f"steps.{name}", remedy="run silva profile again")
            if any(value < 0 for row in rows for value in row):
                raise ConfigError("a negative figure", where=f"steps.{name}")
            if width == 4 and any(value <= 0 for row in rows for value in row[2:]):
                raise ConfigError("a step without a duration", where=f"steps.{name}")

    @cached_property
    def prefill_times(self) -> PrefillSteps:
        """Seconds of steps that compute prompts."""
        return PrefillSteps(self.prefill, self.head_ms / 1e3)

    @cached_property
    def decode_times(self) -> DecodeSteps:
        """Seconds of steps that give tokens."""
        return DecodeSteps(self.decode)


@dataclass(frozen=True)
class ServerCosts:
    """What a calm server adds: delays of one request after another, and seconds of the cores."""

    arrive_ms: float = at_least(0)
    """From the moment a request is due until the front has it."""
    queue_ms: float = at_least(0)
    """From there to the first step of its prompt, the cache peers' answer within."""
    first_ms: float = at_least(0)
    """From the end of its prompt to its first token at the client."""
    prefill_loop_ms: float = at_least(0)
    """What a peer adds to a step that computes prompts."""
    prefill_loop_token_us: float = at_least(0)
    """For each token of the step: memory that nobody wrote to before, checksums."""
    decode_loop_ms: float = at_least(0)
    """What a peer adds to a step that gives tokens."""
    hand_over_ms: float = at_least(0)
    """From the end of a prompt to decode, apart from its length."""
    hand_over_token_us: float = at_least(0)
    """For each token of the prompt."""
    request_cpu_ms: float = at_least(0)
    """Seconds of a core for one request, in all processes but the engines."""
    token_cpu_us: float = at_least(0)
    """For each token of an answer, load generator included."""
    prompt_token_cpu_us: float = at_least(0)
    """For each token of a prompt, storing it in the cache included."""

    def prefill_loop_s(self, tokens: float) -> float:
        """What a peer adds to a step that computes so many tokens of prompts."""
        return self.prefill_loop_ms / 1e3 + tokens * self.prefill_loop_token_us / 1e6


@dataclass(frozen=True)
class Profile:
    """Both sections."""

    steps: Steps
    server: ServerCosts

    def prompt_s(self, tokens: float, prompt_len: float) -> float:
        """Seconds of a peer's step over so many tokens of prompts of this length, of any age."""
        chunk, before = round(tokens), round(max(0.0, prompt_len - tokens) / 2)
        seconds = self.steps.prefill_times.seconds([(chunk, before)])
        return seconds + self.server.prefill_loop_s(tokens)

    def decode_s(self, batch: float, length: float) -> float:
        """Seconds of a peer's step for so many requests of this length."""
        seconds = self.steps.decode_times.seconds(round(batch), round(batch * length))
        return seconds + self.server.decode_loop_ms / 1e3


class PrefillSteps:
    """Seconds of a step from its chunks: a curve over all its tokens, and a cost for each pair of a
    token and one that stands before its chunk.
    """

    def __init__(self, rows: Table, head_s: float) -> None:
        self.head_s = head_s
        first = sorted(row for row in rows if not row[1])
        if not first:
            what = "no row without tokens before"
            raise ConfigError(what, where="steps.prefill", remedy="run silva profile again")
        tokens = [row[0] for row in first]
        self._alone = Curve([0.0, *tokens], [first[0][2] / 1e3, *(row[2] / 1e3 for row in first)])
        ratios = [max(1.0, row[3] / row[2]) for row in first]
        self._beside = Curve([0.0, *tokens], [ratios[0], *ratios])
        later = [row for row in rows if row[1]]
        pairs = np.array([row[0] * row[1] for row in later])
        more = np.array([row[2] / 1e3 - self._alone.at(row[0]) for row in later])
        self.pair_s = max(0.0, float(pairs @ more / (pairs @ pairs))) if len(later) else 0.0

    def seconds(self, chunks: Sequence[tuple[int, int]], samples: bool = True) -> float:
        """Of a step that computes chunks: tokens of each, and those before it."""
        total = sum(tokens for tokens, _ in chunks)
        if not total:
            return 0.0
        pairs = sum(tokens * before for tokens, before in chunks)
        base = self._alone.at(total) - (0.0 if samples else self.head_s)
        return max(base, 1e-6) + self.pair_s * pairs

    def beside(self, tokens: int) -> float:
        """How many times as long a step takes while another engine decodes."""
        return self._beside.within(tokens)


class DecodeSteps:
    """Seconds of a step from its batch: for each batch a line over the tokens of its requests."""

    def __init__(self, rows: Table) -> None:
        batches, starts, slopes, ratios = [], [], [], []
        for batch, group in groupby(sorted(rows), key=lambda row: row[0]):
            points = list(group)
            context = np.array([batch * row[1] for row in points])
            seconds = np.array([row[2] / 1e3 for row in points])
            slope = 0.0
            if len(points) > 1:
                slope = max(0.0, float(np.polyfit(context, seconds, 1)[0]))
            batches.append(batch)
            slopes.append(slope)
            starts.append(max(1e-6, float(np.mean(seconds - slope * context))))
            ratios.append(max(1.0, float(np.mean([row[3] / row[2] for row in points]))))
        # One that grows: control asks for step times that do not fall with more work.
        starts = np.maximum.accumulate(starts).tolist()
        self._start, self._slope = Curve(batches, starts), Curve(batches, slopes)
        self._beside = Curve(batches, ratios)

    def seconds(self, decoding: int, context_tokens: int) -> float:
        """Of a step that gives one token each to `decoding` requests of so many tokens in all."""
        if not decoding:
            return 0.0
        return self._start.at(decoding) + self._slope.within(decoding) * context_tokens

    def beside(self, decoding: int) -> float:
        """How many times as long a step takes while another engine computes prompts."""
        return self._beside.within(decoding)
