"""Building blocks shared by the models: linear maps that carry low-rank branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silva.adapters.tiers import LoraPair
from silva.models.mixed import Run, add_runs


@dataclass(frozen=True)
class Adaptation:
    """What one forward pass adds to the frozen base model, by module name.

    `merged` replaces a module's weight ([out, in], the base plus frozen tiers: the fast path);
    `branches` adds ``scaling * x A^T B^T`` for each pair beside it (trainable tiers, or every tier:
    the plain path). A module may have both, one or none.

    `runs` are tiers that rows of a batch go through, for passes over many clients without autograd
    (`silva.models.mixed`).

    `matmul` is the type in which frozen weights are multiplied: float32, or bfloat16 with sums and
    results in float32, which is faster where the processor has such arithmetic.
    """

    merged: Mapping[str, Tensor] = field(default_factory=dict)
    branches: Mapping[str, Sequence[tuple[LoraPair, float]]] = field(default_factory=dict)
    matmul: torch.dtype = torch.float32
    runs: Sequence[Run] = ()

    def to(self, device: torch.device) -> Adaptation:
        """The same with every tensor on `device`; runs are of one process's CPU."""
        return Adaptation(
            merged={n: w.to(device) for n, w in self.merged.items()},
            branches={
                n: [(LoraPair(p.B.to(device), p.A.to(device)), s) for p, s in pairs]
                for n, pairs in self.branches.items()
            },
            matmul=self.matmul,
        )


NO_ADAPTATION = Adaptation()


def adapted_linear(x: Tensor, linear: nn.Linear, name: str, adaptation: Adaptation) -> Tensor:
    """`adapted` with the weight and the bias of a module."""
    return adapted(x, linear.weight, linear.bias, name, adaptation)


def adapted(
    x: Tensor, weight: Tensor, bias: Tensor | None, name: str, adaptation: Adaptation
) -> Tensor:
    """``x W^T + b + sum_t s_t (x A_t^T) B_t^T`` for x [..., in]; docs/tuning.md, section 1.1."""
    weight = adaptation.merged.get(name, weight)
    if adaptation.matmul == torch.bfloat16:
        y = _Bfloat16Linear.apply(x, weight, bias)
    else:
        y = F.linear(x, weight, bias)
    for pair, scaling in adaptation.branches.get(name, ()):
        y = y + F.linear(F.linear(x, pair.A), pair.B) * scaling
    return add_runs(y, x, name, adaptation.runs) if adaptation.runs else y


class _Bfloat16Linear(torch.autograd.Function):
    """``x W^T + b`` with a frozen W: both products, forward and back, in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        y = F.linear(x.bfloat16(), weight.bfloat16()).float()
        return y if bias is None else y + bias

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return (gradients[0].bfloat16() @ weight.bfloat16()).float(), None, None


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with the tanh approximation (arXiv 1606.08415)."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """``x sigmoid(1.702 x)``, the coarser approximation (arXiv 1606.08415)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
}
"""Hugging Face `hidden_act` names that the models accept."""
