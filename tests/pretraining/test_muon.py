from __future__ import annotations

import pytest
import torch
from torch import nn

from silva.pretraining.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12), (1, 9), (192, 64)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_orthogonalise_brings_singular_values_near_one(
    shape: tuple[int, int], scale: float
) -> None:
    torch.manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(max(shape), min(shape)))[0]
    matrix = matrix * torch.linspace(0.3, 1.0, min(shape)) * scale
    matrix = matrix if shape[0] >= shape[1] else matrix.T
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonalise_keeps_the_singular_vectors() -> None:
    torch.manual_seed(0)
    u = torch.linalg.qr(torch.randn(10, 6))[0]
    v = torch.linalg.qr(torch.randn(6, 6))[0]
    result = u.T @ orthogonalise((u * torch.linspace(1, 2, 6)) @ v.T) @ v
    torch.testing.assert_close(result, torch.diag(result.diagonal()), atol=1e-4, rtol=0)


def test_orthogonalise_of_zero_is_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_muon_descends_and_skips_parameters_without_gradient() -> None:
    torch.manual_seed(0)
    weight, idle = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.ones(2, 2))
    x, target = torch.randn(50, 4), torch.randn(50, 6)
    optimiser = Muon([weight, idle], lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (x @ weight.T - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert torch.equal(idle, torch.ones(2, 2))
