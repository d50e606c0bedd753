"""The next token of every row of a batch, as its request's SamplingParams say.

The order of work: repetition, presence and frequency penalties, logit bias,
grammar; then temperature, top-k, top-p, min-p, and a draw that is a function of (seed, position) and
of the row's own logits alone. Log-probabilities are those of the logits as the model gave them.

Parameters live in arrays by *slot*, a small number that a request keeps while it runs, so that a
step costs a few operations on arrays, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from silva.control.request import SamplingParams, TokenLogprob
from silva.serving.engine.draw import SEED_MASK, Floats, choose, cuts, uniforms
from silva.serving.engine.penalties import Marks

GREEDY_BELOW = 1e-5
"""Temperatures below are 0: the division would overflow."""


PARAMETERS = (
    "_temperature",
    "_top_k",
    "_top_p",
    "_min_p",
    "_seed",
    "_logprobs",
    "_filters",
    "_plain",
)
"""Names of the sampler's arrays by slot."""


@dataclass(frozen=True)
class Draws:
    """What the rows of one step were given, in their order."""

    tokens: list[int]
    logprobs: list[TokenLogprob | None]
    failed: NDArray[np.bool_]
    """Rows whose logits allow no token: not a number, or all forbidden. Their token means nothing."""


class Sampler:
    """Parameters of the requests that run, by slot, and the drawing itself."""

    def __init__(self, vocab_size: int, slots: int = 16) -> None:
        self.vocab_size = vocab_size
        self._temperature = np.ones(slots, np.float32)
        self._top_k = np.zeros(slots, np.int64)
        self._top_p = np.ones(slots)
        self._min_p = np.zeros(slots)
        self._seed = np.zeros(slots, np.uint64)
        self._logprobs = np.full(slots, -1, np.int64)
        self._filters = np.zeros(slots, np.bool_)
        self._plain = np.ones(slots, np.bool_)
        self._marks: dict[int, Marks] = {}
        self._room = np.empty((0, vocab_size), np.float32)

    def put(
        self, slot: int, params: SamplingParams, prompt: Sequence[int], given: Sequence[int]
    ) -> None:
        """A request takes this slot; `given`: the tokens of its answer so far."""
        while slot >= len(self._seed):
            self._grow()
        filters = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0
        self._temperature[slot] = params.temperature
        self._top_k[slot] = params.top_k
        self._top_p[slot] = params.top_p
        self._min_p[slot] = params.min_p
        self._seed[slot] = params.seed & SEED_MASK
        self._logprobs[slot] = -1 if params.logprobs is None else params.logprobs
        self._filters[slot] = filters
        self._marks.pop(slot, None)
        if Marks.needed(params):
            self._marks[slot] = Marks(params, prompt, given)
        self._plain[slot] = (
            params.temperature < GREEDY_BELOW
            and params.logprobs is None
            and slot not in self._marks
        )

    def drop(self, slot: int) -> None:
        """The slot's request is gone."""
        self._marks.pop(slot, None)

    def sample(
        self,
        logits: torch.Tensor,
        slots: NDArray[np.int64],
        positions: NDArray[np.int64],
        masks: Mapping[int, NDArray[np.bool_]] | None = None,
    ) -> Draws:
        """A token for each row of logits, float32 [rows, vocab].

        `slots` [rows] say whose they are, `positions` [rows] which position of the request's tokens
        is drawn, `masks` by row which tokens [vocab] may come.
        """
        raw: Floats = logits.numpy()
        masks = masks or {}
        rows = np.flatnonzero(~self._plain[slots])
        if not len(rows) and not masks:
            tokens = raw.argmax(axis=1)
            return _draws(tokens, [None] * len(raw), raw)
        edited = self._edited(raw, slots, masks)
        tokens = edited.argmax(axis=1)
        failed = ~np.isfinite(edited[np.arange(len(raw)), tokens])
        hot = np.flatnonzero((self._temperature[slots] >= GREEDY_BELOW) & ~failed)
        if len(hot):
            tokens[hot] = self._drawn(edited, hot, tokens[hot], slots[hot], positions[hot])
        for row in np.flatnonzero(~failed).tolist() if self._marks else ():
            marks = self._marks.get(int(slots[row]))
            if marks is not None:
                marks.add(int(tokens[row]))
        return Draws(tokens.tolist(), self._reported(raw, slots, tokens, failed), failed)

    def _grow(self) -> None:
        for name in PARAMETERS:
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, array]))

    def _edited(
        self, raw: Floats, slots: NDArray[np.int64], masks: Mapping[int, NDArray[np.bool_]]
    ) -> Floats:
        """Logits after penalties, biases and grammars; `raw` itself where there are none."""
        marked = [
            (row, marks)
            for row, slot in enumerate(slots.tolist() if self._marks else ())
            if (marks := self._marks.get(slot)) is not None
        ]
        if not marked and not masks:
            return raw
        edited = raw.copy()
        Marks.apply(edited, marked)
        for row, allowed in masks.items():
            edited[row, ~allowed] = -np.inf
        return edited

    def _drawn(
        self,
        logits: Floats,
        rows: NDArray[np.int64],
        likeliest: NDArray[np.int64],
        slots: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Tokens of some `rows`, whose `likeliest` tokens are known."""
        x = self._room[: len(rows)]
        if len(x) < len(rows):
            # Kept from step to step: fresh pages cost more than the arithmetic on them.
            x = self._room = np.empty((len(rows), self.vocab_size), np.float32)
        np.take(logits, rows, axis=0, out=x)
        x -= logits[rows, likeliest][:, None]
        x /= self._temperature[slots, None]
        if self._filters[slots].any():
            least = cuts(x, self._top_k[slots], self._top_p[slots], self._min_p[slots])
            for row in np.flatnonzero(least > -np.inf).tolist():
                np.putmask(x[row], x[row] < least[row], -np.inf)
        return choose(x, uniforms(self._seed[slots], positions))

    def _reported(
        self,
        raw: Floats,
        slots: NDArray[np.int64],
        tokens: NDArray[np.int64],
        failed: NDArray[np.bool_],
    ) -> list[TokenLogprob | None]:
        """Log-probabilities of the rows that ask for them."""
        found: list[TokenLogprob | None] = [None] * len(raw)
        rows = np.flatnonzero((self._logprobs[slots] >= 0) & ~failed)
        if not len(rows):
            return found
        wanted = np.minimum(self._logprobs[slots[rows]], self.vocab_size)
        some = raw[rows]
        best = torch.from_numpy(some).topk(int(wanted.max()), dim=1)
        largest = some.max(axis=1)
        some -= largest[:, None]
        totals = np.log(np.exp(some, out=some).sum(axis=1)).astype(np.float64) + largest
        own = raw[rows, tokens[rows]] - totals
        values = best.values.numpy() - totals[:, None]
        for i, row in enumerate(rows.tolist()):
            top = zip(best.indices[i].tolist(), values[i].tolist(), strict=True)
            found[row] = TokenLogprob(float(own[i]), tuple(top)[: wanted[i]])
        return found


def _draws(tokens: NDArray[np.int64], logprobs: list[TokenLogprob | None], logits: Floats) -> Draws:
    failed = ~np.isfinite(logits[np.arange(len(tokens)), tokens])
    return Draws(tokens.tolist(), logprobs, failed)
