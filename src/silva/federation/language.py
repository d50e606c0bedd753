"""A causal language model and windows of text, as the cascade sees them (`silva.federation.task`).

The loss is the cross entropy of the next token, and clients' models are judged by the perplexity of
their own held-out windows. The model's head is frozen with the rest of it: tiers have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from silva.adapters.tiers import AdapterPath, Head
from silva.data.nouns import ClientRows, Partition
from silva.data.text import TextDataset
from silva.errors import ConfigError
from silva.federation.config import AdapterConfig, FederationConfig
from silva.federation.figures import PERPLEXITY, Figure
from silva.federation.record import Surprise
from silva.federation.task import Objective
from silva.models.adapted_language import adaptation_of_language, adapted_model
from silva.models.attention import CausalAttention
from silva.models.attention_parts import (
    Adaptable,
    all_weights,
    attention_weights,
    usual_targets,
)
from silva.models.latent import CausalLatents
from silva.models.layers import Adaptation
from silva.models.llama import Llama

TOKENS_AT_ONCE = 512
"""Tokens in one forward and backward pass. A pass of SmolLM2 keeps about 2 MB of each."""
HEADLESS = ("head", "head_init", "label_prior")
"""Settings that say what clients do with heads of their own."""


@dataclass(frozen=True)
class ClientText:
    """One client's windows: tokens int64 [n, window + 1], and bytes int64 [n] of the last `window`."""

    tokens: Tensor
    bytes: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


class ClientTexts:
    """`Clients` over the windows of one data set, which are in memory."""

    def __init__(self, dataset: TextDataset, partition: Partition) -> None:
        self._source = dataset.source
        self._rows: Mapping[str, ClientRows] = {c.name: c for c in partition.clients}

    def train(self, name: str) -> ClientText:
        """Training windows of client `name`."""
        return self._of(self._rows[name].train)

    def test(self, name: str) -> ClientText:
        """Test windows of client `name`."""
        return self._of(self._rows[name].test)

    def _of(self, rows: NDArray[np.int64]) -> ClientText:
        tokens, sizes = self._source.tokens[rows], self._source.bytes[rows]
        return ClientText(torch.from_numpy(tokens).long(), torch.from_numpy(sizes))


class LanguageModelling:
    """The task of predicting the next token, judged by perplexity."""

    def __init__(self, model: Adaptable, window: int) -> None:
        self.model, self._window = model, window

    @property
    def figure(self) -> Figure:
        return PERPLEXITY

    @property
    def reads(self) -> None:
        return None

    @property
    def at_once(self) -> int:
        return max(1, TOKENS_AT_ONCE // self._window)

    @property
    def device(self) -> torch.device:
        return self.model.weights.embedding.device

    def settled(self, config: FederationConfig) -> FederationConfig:
        """Without the control that trains heads alone, unless others were asked for beside it; with
        the model's own projections where the usual ones, which it has not, were left.
        """
        usual = FederationConfig()
        config = replace(config, adapter=self._targeted(config.adapter))
        for name in HEADLESS:
            if getattr(config, name) != getattr(usual, name):
                raise ConfigError(
                    "tiers of a language model have no heads, so no policy for them applies",
                    where=f"federation.{name}",
                    remedy="leave it out",
                )
        if config.controls == usual.controls:
            return replace(config, controls=())
        if "head_only" in config.controls:
            raise ConfigError(
                "tiers of a language model have no heads that could be trained alone",
                where="federation.controls",
                remedy="choose among local_pair, local_lora",
            )
        return config

    def _targeted(self, adapter: AdapterConfig) -> AdapterConfig:
        if adapter.targets == AdapterConfig().targets:
            return replace(adapter, targets=usual_targets(self.model))
        has = {module.rsplit(".", 1)[-1] for module in all_weights(self.model)}
        if strange := sorted(set(adapter.targets) - has):
            raise ConfigError(
                f"the model has no projection {strange[0]!r}",
                where="federation.adapter.targets",
                remedy=f"choose among {', '.join(sorted(has))}",
            )
        return adapter

    def base(self, projections: tuple[str, ...]) -> dict[str, Tensor]:
        return {n: w.detach().cpu() for n, w in attention_weights(self.model, projections).items()}

    def merged(self, path: AdapterPath) -> Mapping[str, Tensor]:
        return adaptation_of_language(path, self.model, merged=True).merged

    def objective(self, data: ClientText, adaptation: Adaptation, *, fixed: bool) -> Objective:
        """Cross entropy of the next token. Nothing lies above the pairs that could be `fixed`."""
        model = adapted_model(self.model, adaptation)

        def loss(rows: Tensor, head: Head) -> Tensor:
            return _cross_entropy(model, data.tokens[rows].to(self.device), "mean")

        return loss

    @torch.no_grad()
    def measure(self, data: ClientText, merged: Mapping[str, Tensor], head: Head) -> Surprise:
        """Cross entropy, summed over the tokens of all windows but the first of each."""
        model = adapted_model(self.model, Adaptation(merged=merged).to(self.device))
        parts = data.tokens.split(self.at_once)
        loss = sum(float(_cross_entropy(model, part.to(self.device), "sum")) for part in parts)
        return Surprise(loss, data.tokens[:, 1:].numel(), int(data.bytes.sum()))

    def mean_loss(self, data: ClientText, merged: Mapping[str, Tensor], head: Head) -> float:
        found = self.measure(data, merged, head)
        return found.loss / found.total


def _cross_entropy(model: Adaptable, windows: Tensor, reduction: str) -> Tensor:
    """Of every token of int64 [n, length] but the first, given those before it in its window."""
    n, length = windows.shape[0], windows.shape[1] - 1
    positions = torch.arange(length, device=windows.device).repeat(n)
    tokens, lengths = windows[:, :-1].flatten(), [length] * n
    if isinstance(model, Llama):
        hidden = model.hidden(tokens, positions, CausalAttention(lengths))
    else:
        hidden = model.hidden(tokens, positions, CausalLatents(lengths))
    return F.cross_entropy(model.logits(hidden), windows[:, 1:].flatten(), reduction=reduction)
