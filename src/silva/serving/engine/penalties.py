"""Penalties for tokens that came before, and biases: single tokens of a row that are moved.

Kept sparse: a row's marks grow with the tokens it has seen and not with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from silva.control.request import SamplingParams


class Marks:
    """The tokens of one request whose logits are moved, and by what."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int], given: Sequence[int]) -> None:
        """The repetition penalty counts the prompt's tokens too, the other two the answer's only."""
        self._params = params
        self._place: dict[int, int] = {}
        self._tokens = np.zeros(64, np.int64)
        self._counts = np.zeros(64, np.float32)
        if params.repetition_penalty != 1.0:
            for token in dict.fromkeys(prompt):
                self._find(token)
        for token in given:
            self.add(token)
        self._biased = np.array([token for token, _ in params.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in params.logit_bias], np.float32)

    @staticmethod
    def needed(params: SamplingParams) -> bool:
        """Whether a request has any marks at all."""
        return bool(
            params.repetition_penalty != 1.0
            or params.presence_penalty
            or params.frequency_penalty
            or params.logit_bias
        )

    def add(self, token: int) -> None:
        """The answer has got one more token."""
        place = self._find(token)
        self._counts[place] += 1

    @staticmethod
    def apply(logits: NDArray[np.float32], marked: Sequence[tuple[int, Marks]]) -> None:
        """Move the logits [rows, vocab] of the marked rows, in place.

        Repetition: positive ones are divided by the penalty, others multiplied (arXiv 1909.05858).
        Then ``frequency * count + presence * (count > 0)`` is taken off (OpenAI), biases added.
        """
        if not marked:
            return
        sizes = [len(marks._place) for _, marks in marked]
        at = np.repeat([row for row, _ in marked], sizes)
        tokens = np.concatenate([m._tokens[:n] for (_, m), n in zip(marked, sizes, strict=True)])
        counts = np.concatenate([m._counts[:n] for (_, m), n in zip(marked, sizes, strict=True)])
        settings = [
            (m._params.repetition_penalty, m._params.frequency_penalty, m._params.presence_penalty)
            for _, m in marked
        ]
        repetition, frequency, presence = np.repeat(np.array(settings, np.float32), sizes, axis=0).T
        x = logits[at, tokens]
        x = np.where(x > 0, x / repetition, x * repetition)
        logits[at, tokens] = x - frequency * counts - presence * (counts > 0)
        at = np.repeat([row for row, _ in marked], [len(m._biased) for _, m in marked])
        tokens = np.concatenate([m._biased for _, m in marked])
        # Unlike +=, this counts a token that a request names twice.
        np.add.at(logits, (at, tokens), np.concatenate([m._biases for _, m in marked]))

    def _find(self, token: int) -> int:
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[place] = token
        return place
