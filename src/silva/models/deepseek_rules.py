"""Two parts of a DeepSeek-shaped configuration: how experts are chosen, and how positions turn.

What computes by them is in `gate` and `yarn`; these need no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Scoring = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class GateRule:
    """How scores become a choice of `top_k` experts out of `top_groups` of `groups` groups."""

    scoring: Scoring
    top_k: int
    groups: int = 1
    top_groups: int = 1
    normalised: bool = False
    """Whether the weights of a token sum up to one, before `scaling`."""
    scaling: float = 1.0


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
