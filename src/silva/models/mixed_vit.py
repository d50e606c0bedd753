"""A Vision Transformer in one pass over images of many adapter paths (`silva.models.mixed`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from silva.adapters.tiers import Tier
from silva.models.adapted import check_pair, linear_of
from silva.models.layers import Adaptation
from silva.models.mixed import Branch, Expansion, PackedTier, Run
from silva.models.vit import ViT


def pack_vit(tier: Tier, model: ViT) -> PackedTier:
    """A tier for a model, its head with it. Raises ModelError where one does not fit the other."""
    branches = {}
    for module, pair in tier.pairs.items():
        weight = linear_of(model, module).weight
        check_pair(module, pair, weight)
        A = pair.A.T.to(weight.dtype).contiguous()
        branches[module] = Branch(A, (Expansion.of(pair, tier.scaling, weight, 0, 0),))
    return PackedTier(branches, tier.head)


def mixed_logits(
    model: ViT, pixels: Tensor, paths: Sequence[Sequence[PackedTier]], runs: Sequence[Run]
) -> list[Tensor]:
    """Logits [classes] of each of the images [n, 3, side, side], by the head of its path's last tier.

    `runs` are those of `paths`, in whose order the images are; every path has a tier.
    """
    features = model.features(pixels, Adaptation(runs=runs))
    found: list[Tensor] = []
    start = 0
    for n, path in enumerate(paths):
        if n + 1 == len(paths) or paths[n + 1][-1] is not path[-1]:
            head = path[-1].head
            found += F.linear(features[start : n + 1], head.weight, head.bias).unbind()
            start = n + 1
    return found
