"""What requests say: tokens or words drawn from the seed, equal wherever prompts are to agree."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from silva.serving.bench.config import WorkConfig
from silva.serving.bench.nouns import Planned
from silva.serving.bench.trace import BLOCK_TOKENS

WORDS = tuple(
    """
    the of and to in is you that it he was for on are as with his they at be this have from or one
    had by word but not what all were we when your can said there use an each which she do how their
    if will up other about out many then them these so some her would make like him into time has
    look two more write go see number no way could people my than first water been call who oil its
    now find long down day did get come made may part over new sound take only little work know
    place year live me back give most very after thing our just name good man think say great where
    help through much before line right too mean old any same tell boy follow came want show also
    around form three small set put end does another well large must big even such because turn here
    why ask went men read need land home us move try kind hand picture again change off play spell
    air away animal house point page letter mother answer found study still learn should world
    """.split()
)
"""Common words; most tokenizers take each of them, with the space before it, for one token."""

_PREFIX, _BLOCK, _OWN, _WARMUP = range(4)


class Prompts:
    """The content of every planned prompt; equal prefixes and equal blocks hold equal tokens.

    What is drawn depends on the seed and on what it is for, not on the order of asking. Warm-up
    prompts have nothing in common with those that are measured.
    """

    def __init__(self, config: WorkConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._prefix = lru_cache(maxsize=64)(self._draw_prefix)

    def tokens(self, planned: Planned) -> list[int]:
        """Token ids: the shared prefix, then `input_tokens` of the blocks' or its own."""
        prefix = [] if planned.prefix is None else list(self._prefix(planned.prefix))
        own: list[int] = []
        for block in planned.blocks[: -(-planned.input_tokens // BLOCK_TOKENS)]:
            own += self._draw(_BLOCK, block, BLOCK_TOKENS)
        own = own[: planned.input_tokens]
        kind, number = (_OWN, planned.index) if planned.index >= 0 else (_WARMUP, -planned.index)
        return [*prefix, *own, *self._draw(kind, number, planned.input_tokens - len(own))]

    def text(self, planned: Planned) -> str:
        """One word for every token: near the wanted length, as the server's tokenizer has it."""
        return " ".join(WORDS[token % len(WORDS)] for token in self.tokens(planned))

    def _draw_prefix(self, number: int) -> tuple[int, ...]:
        return tuple(self._draw(_PREFIX, number, self._config.prefix_tokens))

    def _draw(self, kind: int, number: int, count: int) -> list[int]:
        if count <= 0:
            return []
        rng = np.random.default_rng([self._seed, kind, number])
        low, high = self._config.vocabulary_low, self._config.vocabulary_high
        tokens: list[int] = rng.integers(low, high, count).tolist()
        return tokens
