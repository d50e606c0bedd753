from __future__ import annotations

import torch
from forest_cases import MODULES
from forest_cases import signature as random_signature

from silva.adapters.routing import nearest, signature, similarities


def noisy(bases: dict[str, torch.Tensor], seed: int, noise: float) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        name: u @ torch.randn(2, 2, generator=g) + noise * torch.randn(u.shape, generator=g)
        for name, u in bases.items()
    }


def test_a_signature_spans_the_factors() -> None:
    factors = noisy(random_signature(0), 1, 0.0)
    found = signature(factors)
    assert set(found) == set(MODULES)
    for u in found.values():
        torch.testing.assert_close(u.T @ u, torch.eye(2), atol=1e-5, rtol=0)
    assert similarities(factors, [found])[0] > 1 - 1e-5


def test_probes_go_to_their_own_cluster() -> None:
    clusters = [random_signature(n) for n in range(4)]
    for own, bases in enumerate(clusters):
        for seed in range(5):
            scores = similarities(noisy(bases, seed, 0.05), clusters)
            assert nearest(scores) == own and all(0 <= s <= 1 + 1e-9 for s in scores)


def test_the_first_of_equals_is_nearest() -> None:
    assert nearest([0.2, 0.7, 0.7]) == 1
    assert nearest([0.0]) == 0
