"""Rotary positions with YaRN (arXiv 2309.00071), as DeepSeek's models apply them.

Pairs that turn often over the context of pretraining keep their frequency, pairs that turn seldom
are slowed down by `factor`, with a ramp between. Beside that, `mscale` sharpens: cos and sin, and
the scale of the softmax.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from silva.models.deepseek_rules import YarnRope

Rotation: TypeAlias = "tuple[Tensor, Tensor]"
"""cos and sin of each pair's angle [tokens, 1, pairs]."""


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
