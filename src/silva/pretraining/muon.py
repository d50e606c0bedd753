"""Muon (K. Jordan et al., 2024): momentum whose matrix updates are made orthogonal.

Written in float32, since `torch.optim.Muon` iterates in bfloat16, which processors without bfloat16
arithmetic emulate slowly. The update is scaled to the size of an AdamW update (arXiv 2502.16982,
section 2.2), so that both kinds of parameter share one learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: steep at zero, singular values end near one."""


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix [rows, cols], roughly (singular values 0.7 to 1.2).

    Of a stack [.., rows, cols] each matrix by itself.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices [out, in] and stacks of them; everything else belongs to AdamW.

    With a `pool`, matrices are made orthogonal side by side.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        pool: Executor | None = None,
    ) -> None:
        self._map = map if pool is None else pool.map
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Apply one update from the gradients in place; parameters without one are left alone."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            directions = []
            for p in trained:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                buffer = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                directions.append(p.grad.lerp(buffer, group["momentum"]))
            for p, update in zip(trained, self._map(orthogonalise, directions), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape[-2:]) ** 0.5)
