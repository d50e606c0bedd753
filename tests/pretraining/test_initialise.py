from __future__ import annotations

import pytest
import torch
from torch import nn

from silva.models.vit import ViT, ViTConfig
from silva.pretraining.initialise import initialise, sincos_positions, whiten_patches


def vit(width: int, patch: int = 4, heads: int = 2) -> ViT:
    return ViT(ViTConfig(8, patch, 3, width, 2, heads, 20))


@pytest.mark.parametrize("grid", [1, 2, 8])
@pytest.mark.parametrize("width", [4, 8, 10, 35, 192])
def test_sincos_positions(grid: int, width: int) -> None:
    positions = sincos_positions(grid, width)
    assert positions.shape == (grid**2, width)
    assert positions.isfinite().all()
    assert positions.abs().max() <= 1
    assert len(positions.unique(dim=0)) == grid**2


@pytest.mark.parametrize("width", [12, 35, 48, 60])
def test_whitened_patches_are_decorrelated(width: int) -> None:
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.randn(400, 3, 3, 3), size=(8, 8), mode="bilinear")
    pixels = smooth + 0.3 * torch.randn(400, 3, 8, 8)
    model = vit(width, heads=1)
    initialise(model, 0)
    whiten_patches(model, pixels, 0)
    seen = model.patch_projection(pixels).detach().flatten(2).transpose(1, 2).flatten(0, 1)
    values = torch.linalg.eigvalsh(seen.T.cov())
    # 48 values a patch: a narrower model sees `width` of them, a wider one all, each as strong.
    strongest = values[-min(width, 48) :]
    assert strongest.min() > 2.0
    assert strongest.max() < 4.5
    assert values.sum() - strongest.sum() < 1e-2


def test_attention_starts_near_the_identity() -> None:
    model = vit(24)
    initialise(model, 3)
    attention = model.layers[0].attention
    product = attention.o_proj.weight @ attention.v_proj.weight
    assert product.diagonal().mean() < -0.2
    for head in (slice(0, 12), slice(12, 24)):
        scores = attention.q_proj.weight[head].T @ attention.k_proj.weight[head]
        assert scores.diagonal().mean() > 0.2


def test_equal_seeds_give_equal_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        model = vit(16)
        initialise(model, seed)
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
