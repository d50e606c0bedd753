"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929) in the layout of Hugging Face's ViT.

    z = [cls; E patches] + position          embed
    z = z + Attn(LN z);  z = z + MLP(LN z)    encode, once a block
    logits = head(LN(z)[cls])                 features, forward

Only the class token feeds the head, so the last block needs keys and values of every token but a
query, an output projection and an MLP of the class token alone (`last_block="cls"`, the fast path;
`"full"` is its plain twin and gives the same logits).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silva.models.layers import ACTIVATIONS, NO_ADAPTATION, Adaptation, adapted_linear


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a Vision Transformer; field names are those of Hugging Face's `config.json`."""

    image_size: int = 32
    patch_size: int = 4
    num_channels: int = 3
    hidden_size: int = 192
    num_hidden_layers: int = 6
    num_attention_heads: int = 3
    intermediate_size: int = 768
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


class Attention(nn.Module):
    """Multi-head self-attention, ``softmax(Q K^T / sqrt(head_size)) V`` in each head."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        h = config.hidden_size
        self.heads, self.head_size = config.num_attention_heads, config.head_size
        self.q_proj = nn.Linear(h, h, bias=config.qkv_bias)
        self.k_proj = nn.Linear(h, h, bias=config.qkv_bias)
        self.v_proj = nn.Linear(h, h, bias=config.qkv_bias)
        self.o_proj = nn.Linear(h, h)

    def forward(self, x: Tensor, queries: Tensor, name: str, adaptation: Adaptation) -> Tensor:
        """Attend from `queries` [batch, n, hidden] to all of x [batch, tokens, hidden]."""
        q = adapted_linear(queries, self.q_proj, f"{name}.q_proj", adaptation)
        k = adapted_linear(x, self.k_proj, f"{name}.k_proj", adaptation)
        v = adapted_linear(x, self.v_proj, f"{name}.v_proj", adaptation)
        q, k, v = (t.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2) for t in (q, k, v))
        context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return adapted_linear(context, self.o_proj, f"{name}.o_proj", adaptation)


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and beside an identity (pre-norm)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        h = config.hidden_size
        self.layernorm_before = nn.LayerNorm(h, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.layernorm_after = nn.LayerNorm(h, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(h, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, h)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, name: str, adaptation: Adaptation, *, cls_only: bool) -> Tensor:
        """[batch, tokens, hidden] -> the same, or [batch, 1, hidden] with `cls_only`."""
        normed = self.layernorm_before(x)
        if cls_only:
            x, queries = x[:, :1], normed[:, :1]
        else:
            queries = normed
        x = x + self.attention(normed, queries, f"{name}.attention", adaptation)
        hidden = self.activation(
            adapted_linear(self.layernorm_after(x), self.fc1, f"{name}.mlp.fc1", adaptation)
        )
        return x + adapted_linear(hidden, self.fc2, f"{name}.mlp.fc2", adaptation)


class ViT(nn.Module):
    """A Vision Transformer without a head of its own; heads belong to the tiers of a forest.

    Adapted modules are named ``layers.<n>.attention.q_proj`` and so on (`module_names`).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        h = config.hidden_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, h))
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.grid**2 + 1, h))
        self.patch_projection = nn.Conv2d(
            config.num_channels, h, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(h, eps=config.layer_norm_eps)

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [batch, channels, side, side] -> tokens [batch, 1 + grid^2, hidden].

        Any square side that is a multiple of the patch is accepted: positions are interpolated.
        """
        patches = self.patch_projection(pixels)
        positions = self._positions(patches.shape[-1])
        tokens = patches.flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(len(pixels), -1, -1)
        return torch.cat([cls, tokens], dim=1) + positions

    def _positions(self, grid: int) -> Tensor:
        if grid == self.config.grid:
            return self.position_embeddings
        cls, patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        square = patches.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))
        resized = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
        return torch.cat([cls, resized.flatten(2).transpose(1, 2)], dim=1)

    def features(
        self, pixels: Tensor, adaptation: Adaptation = NO_ADAPTATION, *, last_block: str = "cls"
    ) -> Tensor:
        """Normalised class token [batch, hidden], what every head reads.

        `last_block` is "cls" (fast) or "full" (plain); both give the same features.
        """
        x = self.embed(pixels)
        last = len(self.layers) - 1
        for n, block in enumerate(self.layers):
            cls_only = n == last and last_block == "cls"
            x = block(x, f"layers.{n}", adaptation, cls_only=cls_only)
        return self.layernorm(x[:, 0])

    def forward(
        self,
        pixels: Tensor,
        head: tuple[Tensor, Tensor],
        adaptation: Adaptation = NO_ADAPTATION,
    ) -> Tensor:
        """Logits [batch, classes] with head = (weight [classes, hidden], bias [classes])."""
        return F.linear(self.features(pixels, adaptation), *head)

    def module_names(self, projections: tuple[str, ...] = ("q_proj", "v_proj")) -> list[str]:
        """Names of the attention projections that adapters attach to, block by block."""
        return [f"layers.{n}.attention.{p}" for n in range(len(self.layers)) for p in projections]
