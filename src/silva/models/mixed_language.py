"""A language model in one pass over tokens of many adapter paths (`silva.models.mixed`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from silva.adapters.tiers import Tier
from silva.errors import ModelError
from silva.models.adapted import check_pair
from silva.models.attention_parts import adaptable, attention_parts
from silva.models.deepseek import Deepseek
from silva.models.language import LanguageModel
from silva.models.llama import Linear, Llama
from silva.models.mixed import Branch, Expansion, PackedTier, Run, add_runs


class MixedLlama(Llama):
    """`model` for one pass whose rows go through `runs`. Its weights are the model's own."""

    def __init__(self, model: Llama, runs: Sequence[Run]) -> None:
        super().__init__(model.config, model.weights, name=model.name, digest=model.digest)
        self._runs = runs

    def linear(self, x: Tensor, name: str) -> Tensor:
        """See `Llama`. Not for autograd."""
        return add_runs(super().linear(x, name), x, name, self._runs)


class MixedDeepseek(Deepseek):
    """The same of a model with latent attention, whose experts are the model's own."""

    def __init__(self, model: Deepseek, runs: Sequence[Run]) -> None:
        super().__init__(
            model.config, model.weights, model.exchange, name=model.name, digest=model.digest
        )
        self._runs = runs

    def linear(self, x: Tensor, name: str, pieces: Linear) -> Tensor:
        """See `Deepseek`. Not for autograd."""
        return add_runs(super().linear(x, name, pieces), x, name, self._runs)


def mixed(model: LanguageModel, runs: Sequence[Run]) -> LanguageModel:
    """`model` for one pass with these runs; without any it is the model itself."""
    if not runs:
        return model
    if isinstance(model, Deepseek):
        return MixedDeepseek(model, runs)
    assert isinstance(model, Llama)  # `pack` refuses every other
    return MixedLlama(model, runs)


def pack(tier: Tier, model: LanguageModel) -> PackedTier:
    """A tier for a model, in its type; queries, keys and values of a layer share the product with A.

    Raises ModelError where one does not fit the other.
    """
    known, branches = set(tier.pairs), {}
    for linear, parts in attention_parts(adaptable(model)):
        mine, column, rank = [], 0, 0
        for module, (weight, _) in parts:
            pair = tier.pairs.get(module)
            if pair is not None:
                check_pair(module, pair, weight)
                known.discard(module)
                mine.append((pair.A, Expansion.of(pair, tier.scaling, weight, rank, column)))
                rank += pair.rank
            column += len(weight)
        if mine:
            A = torch.cat([A for A, _ in mine]).T.to(model.dtype).contiguous()
            branches[linear] = Branch(A, tuple(expansion for _, expansion in mine))
    if known:
        raise ModelError(
            f"the model has no projection {min(known)[:100]!r}",
            where=model.name,
            remedy="the adapters were trained on a model of another shape",
        )
    return PackedTier(branches)
