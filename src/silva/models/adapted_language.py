"""A language model with low-rank pairs on the projections of its attention."""

from __future__ import annotations

import torch
from torch import Tensor

from silva.adapters.tiers import AdapterPath
from silva.models.adapted import adaptation_to
from silva.models.attention_parts import Adaptable, Parts, all_weights, attention_parts, weight_of
from silva.models.deepseek import Deepseek
from silva.models.layers import Adaptation, adapted
from silva.models.llama import Linear, Llama


class AdaptedLlama(Llama):
    """`model` with one adaptation. Its weights are the model's own; only what is adapted is not."""

    def __init__(self, model: Llama, adaptation: Adaptation) -> None:
        super().__init__(model.config, model.weights, name=model.name, digest=model.digest)
        self._adaptation, self._parts = adaptation, _touched(model, adaptation)

    def linear(self, x: Tensor, name: str) -> Tensor:
        """See `Llama`. One product a module where any module of the linear map is adapted."""
        parts = self._parts.get(name) or _whole(name, self.weights.linears[name])
        return _through(x, parts, self._adaptation)


class AdaptedDeepseek(Deepseek):
    """The same of a model with latent attention; its experts are the model's own too."""

    def __init__(self, model: Deepseek, adaptation: Adaptation) -> None:
        super().__init__(
            model.config, model.weights, model.exchange, name=model.name, digest=model.digest
        )
        self._adaptation, self._parts = adaptation, _touched(model, adaptation)

    def linear(self, x: Tensor, name: str, pieces: Linear) -> Tensor:
        """See `Deepseek`."""
        return _through(x, self._parts.get(name) or _whole(name, pieces), self._adaptation)


def adapted_model(model: Adaptable, adaptation: Adaptation) -> Adaptable:
    """`model` with one adaptation; gradients flow to its branches."""
    if isinstance(model, Llama):
        return AdaptedLlama(model, adaptation)
    return AdaptedDeepseek(model, adaptation)


def adaptation_of_language(path: AdapterPath, model: Adaptable, *, merged: bool) -> Adaptation:
    """What the tiers of `path` add to `model` (`silva.models.adapted.adaptation_to`)."""
    weights = all_weights(model)
    return adaptation_to(path, lambda module: weight_of(weights, module), merged=merged)


def _touched(model: Adaptable, adaptation: Adaptation) -> dict[str, Parts]:
    """The linear maps of which a module is adapted."""
    touched = {*adaptation.merged, *adaptation.branches}
    return {
        name: parts
        for name, parts in attention_parts(model)
        if touched & {module for module, _ in parts}
    }


def _whole(name: str, pieces: Linear) -> Parts:
    return [(name, piece) for piece in pieces]


def _through(x: Tensor, parts: Parts, how: Adaptation) -> Tensor:
    found = [adapted(x, weight, bias, module, how) for module, (weight, bias) in parts]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)
