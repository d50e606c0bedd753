"""Llama-shaped language models (arXiv 2302.13971, 2307.09288): Llama, Mistral, Qwen2, Qwen3.

    x = E[tokens]
    x = x + Wo Attn(R q, R k, v),  [q; k; v] = Wqkv N(x)        once a layer; R rotates by position
    x = x + Wdown (silu(g) * u),   [g; u] = Wgateup N(x)        SwiGLU (arXiv 2002.05202)
    logits = Whead N(x)                                         N: RMS norm (arXiv 1910.07467)

The model is plain tensors, which may be views of a mapped file, and keeps nothing from step to step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from silva.models.attention import Attend
from silva.models.llama_config import LlamaConfig, Rope

Linear = tuple[tuple[Tensor, Tensor | None], ...]
"""``y = W x + b`` with W [out, in] in one piece, or cut along `out` where the file has it so."""


@dataclass(frozen=True)
class LayerNorms:
    """RMS norm weights of one layer; those of queries and keys [head_size] only in Qwen3."""

    attention: Tensor
    mlp: Tensor
    q: Tensor | None = None
    k: Tensor | None = None


@dataclass(frozen=True)
class LlamaWeights:
    """Everything the model computes with.

    `linears` by name: ``layers.N.attention.{qkv,output}``, ``layers.N.mlp.{gate_up,down}``, ``head``.
    """

    embedding: Tensor
    linears: dict[str, Linear]
    norms: tuple[LayerNorms, ...]
    norm: Tensor


class Llama:
    """A frozen Llama-shaped model, a `LanguageModel` (silva.models.language).

    Autograd is the caller's choice: serving calls it under `torch.inference_mode`.
    """

    def __init__(
        self, config: LlamaConfig, weights: LlamaWeights, *, name: str, digest: str
    ) -> None:
        """`digest` is that of the weights' content and of `config.digest()`."""
        self.config, self.weights, self.name, self.digest = config, weights, name, digest
        self._inverse_frequencies = inverse_frequencies(config.rope, config.head_size)

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.embedding.dtype

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Normalised last hidden states [tokens, hidden_size]; tokens, positions: int64 [tokens]."""
        x = F.embedding(tokens, self.weights.embedding)
        rotation = self._rotation(positions)
        for n, norms in enumerate(self.weights.norms):
            x = x + self._attention(n, self._norm(x, norms.attention), rotation, attend)
            x = x + self._mlp(n, self._norm(x, norms.mlp))
        return self._norm(x, self.weights.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden_size] -> float32 [n, vocab_size]."""
        return self.linear(hidden, "head").float()

    def linear(self, x: Tensor, name: str) -> Tensor:
        """One linear map of x [tokens, in] by its name: the one place adapters have to know of."""
        pieces = self.weights.linears[name]
        if len(pieces) == 1:
            return F.linear(x, *pieces[0])
        return torch.cat([F.linear(x, weight, bias) for weight, bias in pieces], dim=-1)

    def _attention(
        self, n: int, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend
    ) -> Tensor:
        c, norms = self.config, self.weights.norms[n]
        qkv = self.linear(x, f"layers.{n}.attention.qkv").unflatten(-1, (-1, c.head_size))
        if norms.q is None or norms.k is None:
            qk = rotate(qkv[:, : c.heads + c.kv_heads], rotation)
            q, k = qk[:, : c.heads], qk[:, c.heads :]
        else:
            q = rotate(self._norm(qkv[:, : c.heads], norms.q), rotation)
            k = rotate(self._norm(qkv[:, c.heads : c.heads + c.kv_heads], norms.k), rotation)
        out = attend(n, q, k, qkv[:, c.heads + c.kv_heads :])
        return self.linear(out.flatten(1), f"layers.{n}.attention.output")

    def _mlp(self, n: int, x: Tensor) -> Tensor:
        gate, up = self.linear(x, f"layers.{n}.mlp.gate_up").chunk(2, dim=-1)
        return self.linear(F.silu(gate) * up, f"layers.{n}.mlp.down")

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.norm_eps)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [tokens, 1, head_size / 2] of the angles, computed in float32."""
        angles = positions.to(torch.float32)[:, None] * self._inverse_frequencies
        return angles.cos().to(self.dtype)[:, None], angles.sin().to(self.dtype)[:, None]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (i, i + head_size / 2) of x [tokens, heads, head_size] by their angles."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def inverse_frequencies(rope: Rope, head_size: int) -> Tensor:
    """Angle per position of each rotated pair, float32 [head_size / 2]."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "default":
        return plain
    if rope.kind == "linear":
        return plain / rope.factor
    turns = rope.original_context * plain / (2 * math.pi)  # over the context of pretraining
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = kept.clamp(0.0, 1.0)
    return (1 - kept) * plain / rope.factor + kept * plain
