"""Rotary positions with YaRN (arXiv 2309.00071), as DeepSeek's models apply them.

Pairs that turn often over the context of pretraining keep their frequency, pairs that turn seldom
are slowed down by `factor`, with a ramp between. Beside that, `mscale` sharpens: cos and sin, and
the scale of the softmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Rotation: TypeAlias = "tuple[Tensor, Tensor]"
"""cos and sin of each pair's angle [tokens, 1, pairs]."""


@dataclass(frozen=True)
class YarnRope:
    """`default` needs `theta` only."""

    theta: float = 10_000.0
    kind: Literal["default", "yarn"] = "default"
    factor: float = 1.0
    original_context: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None
    """What cos and sin are multiplied by; None: follows from `factor` and the two mscales."""
    truncated: bool = True
    """Whether the ramp begins and ends at whole pairs."""

    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""
        if self.kind == "default":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _sharpened(self.factor, self.mscale) / _sharpened(
                self.factor, self.mscale_all_dim
            )
        return _sharpened(self.factor, 1.0)

    @property
    def softmax_factor(self) -> float:
        """What the scale of the softmax is multiplied by."""
        if self.kind == "default" or not self.mscale_all_dim:
            return 1.0
        return _sharpened(self.factor, self.mscale_all_dim) ** 2


def _sharpened(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


@lru_cache(maxsize=16)
def inverse_frequencies(rope: YarnRope, size: int) -> Tensor:
    """Angle per position of each pair, float32 [size / 2]."""
    plain = 1.0 / rope.theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    if rope.kind == "default":
        return plain
    low, high = (_pair_turning(rope, size, turns) for turns in (rope.beta_fast, rope.beta_slow))
    if rope.truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    # A ramp without length would divide by zero.
    length = high - low or 0.001
    slowed = ((torch.arange(size // 2, dtype=torch.float32) - low) / length).clamp(0, 1)
    return plain / rope.factor * slowed + plain * (1 - slowed)


def _pair_turning(rope: YarnRope, size: int, turns: float) -> float:
    """The pair, not a whole number, that turns so often over the context of pretraining."""
    wavelength = rope.original_context / (turns * 2 * math.pi)
    return size * math.log(wavelength) / (2 * math.log(rope.theta))


def rotation_at(positions: Tensor, rope: YarnRope, size: int, dtype: torch.dtype) -> Rotation:
    """The rotation of tokens at `positions` [tokens], computed in float32."""
    angles = positions.to(torch.float32)[:, None] * inverse_frequencies(rope, size)
    cos, sin = angles.cos() * rope.amplitude, angles.sin() * rope.amplitude
    return cos.to(dtype)[:, None], sin.to(dtype)[:, None]


def rotate_pairs(x: Tensor, rotation: Rotation, interleaved: bool) -> Tensor:
    """x [tokens, heads, size] turned by pairs (2i, 2i + 1), or (i, i + size / 2).

    The first of all pairs come out before the second ones. Queries and keys are turned alike, so
    the order does not show in their products.
    """
    cos, sin = rotation
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
