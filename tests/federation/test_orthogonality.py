from __future__ import annotations

import pytest
import torch

from silva.adapters.subspace import overlap
from silva.federation.orthogonality import Frozen, joint_basis, penalty, project


def draw(seed: int, p: int = 20, r: int = 3) -> torch.Tensor:
    return torch.randn(p, r, generator=torch.Generator().manual_seed(seed))


def orthonormal(seed: int) -> torch.Tensor:
    return torch.linalg.qr(draw(seed))[0]


def test_the_gradient_is_a_decay_of_the_frozen_directions() -> None:
    U, B = orthonormal(0), draw(1).requires_grad_()
    loss = penalty({"m": B}, [Frozen({"m": U}, 0.3)], "soft")
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    torch.testing.assert_close(B.grad, 2 * 0.3 * U @ (U.T @ B.detach()), atol=1e-5, rtol=1e-5)


def test_terms_of_tiers_and_modules_add_up() -> None:
    B = {"m": draw(1), "n": draw(2)}
    root, cluster = (
        Frozen({"m": draw(3), "n": draw(4)}, 0.1),
        Frozen({"m": draw(5), "n": draw(6)}, 2),
    )
    wanted = sum(
        tier.gamma * float((tier.factors[name].T @ B[name]).square().sum())
        for tier in (root, cluster)
        for name in B
    )
    assert float(penalty(B, [root, cluster], "soft")) == pytest.approx(wanted, rel=1e-5)


def test_the_normalised_penalty_is_blind_to_scale() -> None:
    U, B = orthonormal(0), draw(1)
    one = float(penalty({"m": B}, [Frozen({"m": U}, 0.3)], "soft_normalised"))
    other = float(penalty({"m": 7 * B}, [Frozen({"m": U}, 0.3)], "soft_normalised"))
    assert one == pytest.approx(other, rel=1e-5) and 0 < one < 0.3


def test_no_penalty_and_no_gradient_where_there_is_none() -> None:
    tier = Frozen({"m": draw(0)}, 1.0)
    assert penalty({"m": draw(1)}, [tier], "none") == 0.0
    assert penalty({"m": draw(1)}, [tier], "hard") == 0.0
    assert penalty({"m": draw(1)}, [], "soft") == 0.0
    B = torch.zeros(20, 3, requires_grad=True)
    for kind in ("soft", "soft_normalised"):
        value = penalty({"m": B}, [tier], kind)
        assert isinstance(value, torch.Tensor)
        (gradient,) = torch.autograd.grad(value, B)
        assert not gradient.any()


def test_the_hard_projection_leaves_nothing_of_any_frozen_tier() -> None:
    root, cluster = draw(0), draw(1)
    frozen = [Frozen({"m": root}, 1.0), Frozen({"m": cluster}, 1.0)]
    B = draw(2)
    before = B.clone()
    project({"m": B}, [joint_basis(frozen)])
    assert overlap(B, root) < 1e-6 and overlap(B, cluster) < 1e-6
    both = torch.cat([root, cluster], dim=1)
    q = torch.linalg.qr(both)[0]
    torch.testing.assert_close(B, before - q @ (q.T @ before), atol=1e-5, rtol=1e-5)


def test_an_empty_direction_of_a_frozen_tier_takes_nothing_away() -> None:
    """A tier that never trained has B = 0, and spans nothing to stay away from."""
    B = draw(2)
    before = B.clone()
    project({"m": B}, [joint_basis([Frozen({"m": torch.zeros(20, 3)}, 1.0)])])
    assert torch.equal(B, before)
    one = torch.cat([draw(0, r=1), torch.zeros(20, 2)], dim=1)
    assert joint_basis([Frozen({"m": one}, 1.0)])["m"].shape == (20, 1)
    assert joint_basis([]) == {}
