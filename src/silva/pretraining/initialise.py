"""Starting weights of a Vision Transformer that learns well from few images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from silva.models.vit import Attention, Block, ViT


def sincos_positions(grid: int, width: int) -> Tensor:
    """Two-dimensional sine-cosine positions [grid^2, width] (arXiv 2205.01580).

    A width that is no multiple of four ends in zeros.
    """
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    omega = 1.0 / 10000 ** (torch.arange(width // 4) / max(width // 4 - 1, 1))
    angles = [axis.flatten()[:, None].float() * omega for axis in (x, y)]
    waves = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
    return nn.functional.pad(waves, (0, width % 4))


@torch.no_grad()
def initialise(model: ViT, seed: int) -> None:
    """Fill `model` in place: positions, small linear maps, mimetic attention."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    fan_in = model.patch_projection.weight[0].numel()
    nn.init.trunc_normal_(model.patch_projection.weight, std=fan_in**-0.5, generator=generator)
    if model.patch_projection.bias is not None:
        nn.init.zeros_(model.patch_projection.bias)
    model.position_embeddings[0, 1:] = sincos_positions(model.config.grid, model.config.hidden_size)
    for block in model.layers:
        assert isinstance(block, Block)
        _mimetic(block.attention, generator)


def _mimetic(attention: Attention, generator: torch.Generator) -> None:
    """Attention that starts near the identity map, as trained ones end (arXiv 2305.09828).

    W_q W_k^T ~ 0.7 Z + 0.7 I in each head, W_v W_o ~ 0.4 Z - 0.4 I, Z random with variance 1/width.
    """
    h, d = attention.q_proj.in_features, attention.head_size

    def noise() -> Tensor:
        return torch.randn(h, h, generator=generator) / math.sqrt(h)

    for n in range(attention.heads):
        rows = slice(n * d, (n + 1) * d)
        u, s, v = torch.linalg.svd(0.7 * noise() + 0.7 * torch.eye(h))
        attention.q_proj.weight[rows] = (u[:, :d] * s[:d].sqrt()).T
        attention.k_proj.weight[rows] = v[:d] * s[:d, None].sqrt()
    u, s, v = torch.linalg.svd(0.4 * noise() - 0.4 * torch.eye(h))
    attention.v_proj.weight.copy_(s.sqrt()[:, None] * v)
    attention.o_proj.weight.copy_(u * s.sqrt())


@torch.no_grad()
def whiten_patches(model: ViT, pixels: Tensor, seed: int) -> None:
    """Let the patch projection see decorrelated patches of `pixels` [n, channels, side, side].

    Its weight becomes 2 Q C^(-1/2), C the covariance of the patches and Q random with orthonormal
    columns (orthonormal rows where the model is narrower than a patch has values), so that fine
    detail starts with the same weight as mean colour.
    """
    convolution, patch = model.patch_projection, model.config.patch_size
    patches = nn.functional.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    patches = patches - patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(model.config.hidden_size, len(values), generator=generator)
    whitening = (vectors * (values + 1e-2).rsqrt()) @ vectors.T
    narrow = len(random) < len(values)
    basis = torch.linalg.qr(random.T)[0].T if narrow else torch.linalg.qr(random)[0]
    weight = 2 * basis @ whitening
    convolution.weight.copy_(weight.view_as(convolution.weight))
