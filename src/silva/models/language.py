"""A language model as serving sees it: tokens and positions in, hidden states and logits out."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from silva.models.kept import Kept


class LanguageConfig(Protocol):
    """What serving has to know of a model's shape; every language model's configuration has it."""

    @property
    def vocab_size(self) -> int:
        """Rows of the head. A tokenizer may know fewer tokens."""
        ...

    @property
    def context(self) -> int:
        """Positions the model was made for: the longest prompt and answer together, in tokens."""
        ...

    @property
    def layers(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def kept(self) -> Kept:
        """What one token keeps in one layer, in elements of the model's type."""
        ...

    @property
    def drafts(self) -> int:
        """Modules for multi-token prediction that came with the weights, each one layer more."""
        ...

    def digest(self) -> str:
        """SHA-256, hexadecimal, of all fields that the logits depend on."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer; may be empty."""
        ...


class LanguageModel(Protocol):
    """A frozen causal language model. It keeps nothing from step to step: that is `attend`'s part.

    Equal digests mean equal logits for equal tokens, up to the rounding of `dtype`.
    """

    @property
    def name(self) -> str:
        """What the model was asked for by; for people, never a key."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, of the weights' content and of the shape they are used in."""
        ...

    @property
    def config(self) -> LanguageConfig: ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, of the hidden states, and of what is kept."""
        ...

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """Last hidden states [tokens, hidden_size], normalised: what the head reads.

        tokens, positions: int64 [tokens], each token with its position in its own sequence.
        attend: an `Attend` (silva.models.attention) where the model keeps heads' keys and values,
        a `LatentAttend` (silva.models.latent) where it keeps latents.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states of the positions of interest [n, hidden_size] -> float32 [n, vocab_size]."""
        ...


@runtime_checkable
class DraftingModel(LanguageModel, Protocol):
    """A model that also guesses the token after next (``config.drafts > 0``)."""

    def draft(self, hidden: Tensor, tokens: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """Hidden states whose logits are of the token after next [tokens, hidden_size].

        hidden: what `hidden` gave at `positions`; tokens: the ones that follow these. What the
        module keeps lies in the layer after the model's, at `positions`.
        """
        ...
