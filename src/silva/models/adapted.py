"""From an adapter path to what one forward pass adds to a model: merged weights, or branches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from silva.adapters.tiers import AdapterPath, LoraPair
from silva.errors import ModelError
from silva.models.layers import Adaptation
from silva.models.vit import ViT


def linear_of(model: ViT, module: str) -> nn.Linear:
    """The linear map of an adapted module: ``layers.0.attention.q_proj``, ``layers.0.mlp.fc1``.

    Raises ModelError when the model has none of that name.
    """
    try:
        found = model.get_submodule(module.replace(".mlp.", "."))
    except AttributeError:
        found = None
    if not isinstance(found, nn.Linear):
        raise ModelError(
            f"the model has no linear module {module[:100]!r}",
            remedy="the adapters were trained on a model of another shape",
        )
    return found


def adaptation_of(path: AdapterPath, model: ViT, *, merged: bool) -> Adaptation:
    """What the tiers of `path` add to a Vision Transformer; see `adaptation_to`."""
    return adaptation_to(path, lambda name: linear_of(model, name).weight, merged=merged)


def adaptation_to(
    path: AdapterPath, weight_of: Callable[[str], Tensor], *, merged: bool
) -> Adaptation:
    """What the tiers of `path` add to the weights [out, in] that `weight_of` gives by module name.

    Ranks and scalings may differ from tier to tier.

    merged=True adds ``sum_t s_t B_t A_t`` to each weight once (one matrix product a module and
    forward pass, no gradients); merged=False keeps every pair as a branch (the plain path). Both
    give the same logits. Raises ModelError when a pair does not fit the model.
    """
    branches: dict[str, list[tuple[LoraPair, float]]] = {}
    for tier in path.tiers:
        for name, pair in tier.pairs.items():
            check_pair(name, pair, weight_of(name))
            branches.setdefault(name, []).append((pair, tier.scaling))
    if not merged:
        return Adaptation(branches=branches)
    weights = {}
    with torch.no_grad():
        for name, pairs in branches.items():
            weight = weight_of(name)
            for pair, scaling in pairs:
                weight = torch.addmm(weight, pair.B, pair.A, alpha=scaling)
            weights[name] = weight
    return Adaptation(merged=weights)


def check_pair(name: str, pair: LoraPair, weight: Tensor) -> None:
    """ModelError unless B A has the shape of the weight [out, in] of module `name`."""
    found = (pair.B.shape[0], pair.A.shape[1])
    if found != tuple(weight.shape) or pair.B.shape[1] != pair.A.shape[0]:
        raise ModelError(
            f"{name}: pair B {list(pair.B.shape)}, A {list(pair.A.shape)} does not fit a weight "
            f"{list(weight.shape)}",
            remedy="the adapters were trained on a model of another shape",
        )
