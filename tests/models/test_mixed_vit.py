"""Images of many paths in one pass give the logits that each gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from silva.adapters.tiers import AdapterPath, Head, LoraPair, Tier, TierName
from silva.errors import ModelError
from silva.models.adapted import adaptation_of, linear_of
from silva.models.mixed import PackedTier, runs_of
from silva.models.mixed_vit import mixed_logits, pack_vit
from silva.models.vit import ViT, ViTConfig

SIDE, CLASSES = 16, 5


@pytest.fixture(scope="module")
def model() -> ViT:
    torch.manual_seed(0)
    config = ViTConfig(SIDE, 4, 3, 32, 3, 2, 64)
    return ViT(config).requires_grad_(False).eval()


def tier_on(model: ViT, name: TierName, seed: int, rank: int) -> Tier:
    draw = torch.Generator().manual_seed(seed)
    pairs = {
        module: LoraPair(
            B=0.3 * torch.randn(w.shape[0], rank, generator=draw),
            A=0.3 * torch.randn(rank, w.shape[1], generator=draw),
        )
        for module in model.module_names()
        for w in (linear_of(model, module).weight,)
    }
    head = Head(torch.randn(CLASSES, 32, generator=draw), torch.randn(CLASSES, generator=draw))
    return Tier(name, pairs, head, 2.0)


@torch.inference_mode()
def test_images_of_many_paths_have_the_logits_that_each_has_alone(model: ViT) -> None:
    root = tier_on(model, "root", 1, 3)
    clusters = [tier_on(model, "cluster", 10 + n, 2) for n in range(2)]
    leaves = [tier_on(model, "leaf", 20 + n, 1 + n) for n in range(3)]
    paths: list[tuple[Tier, ...]] = [
        (root,),
        (root, clusters[0]),
        (root, clusters[0], leaves[0]),
        (root, clusters[0], leaves[0]),
        (root, clusters[0], leaves[1]),
        (root, clusters[1], leaves[2]),
    ]
    pixels = torch.randn(len(paths), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    kept: dict[int, PackedTier] = {}
    packed = [[kept.setdefault(id(t), pack_vit(t, model)) for t in path] for path in paths]
    runs = runs_of(packed, np.ones(len(paths), np.int32))
    found = mixed_logits(model, pixels, packed, runs)
    for n, path in enumerate(paths):
        whole = AdapterPath(path)
        head = (whole.head.weight, whole.head.bias)
        wanted = model(pixels[n : n + 1], head, adaptation_of(whole, model, merged=False))[0]
        torch.testing.assert_close(found[n], wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0], found[5], atol=0.1)


def test_a_tier_of_another_shape_is_refused(model: ViT) -> None:
    tier = tier_on(model, "root", 1, 2)
    wide = {name: LoraPair(B=torch.zeros(3, 2), A=pair.A) for name, pair in tier.pairs.items()}
    with pytest.raises(ModelError, match="does not fit a weight"):
        pack_vit(Tier("root", wide, tier.head, 2.0), model)
    deep = {"layers.9.attention.q_proj": next(iter(tier.pairs.values()))}
    with pytest.raises(ModelError, match="no linear module"):
        pack_vit(Tier("root", deep, tier.head, 2.0), model)
