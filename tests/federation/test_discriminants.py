from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from silva.federation.discriminants import (
    LEAST_SHRINKAGE,
    ClassStatistics,
    discriminant_head,
    shrinkage,
    statistics_of,
)


def statistics(x: torch.Tensor, y: torch.Tensor, classes: int) -> ClassStatistics:
    return statistics_of(x, y, classes)


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (90,), generator=g)
    centres, shape = torch.randn(3, 6, generator=g), torch.randn(6, 6, generator=g)
    return 2 * centres[y] + torch.randn(90, 6, generator=g) @ shape, y


def test_the_head_is_that_of_linear_discriminant_analysis() -> None:
    """scikit-learn adds the logarithms of the priors, which the head takes as equal."""
    x, y = drawn()
    head = discriminant_head([statistics(x, y, 3)])
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=LEAST_SHRINKAGE).fit(
        x.numpy(), y.numpy()
    )
    bias = oracle.intercept_ - np.log(oracle.priors_)
    np.testing.assert_allclose(head.weight.numpy(), oracle.coef_, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(head.bias.numpy(), bias, rtol=1e-3, atol=1e-3)
    wanted = (x.numpy() @ oracle.coef_.T + bias).argmax(axis=1)
    assert ((x @ head.weight.T + head.bias).argmax(dim=1).numpy() == wanted).all()


@pytest.mark.parametrize("images", [20, 60, 300])
def test_few_images_shrink_the_covariance_as_scikit_learn_says(images: int) -> None:
    """Its formula leaves out the terms 2 / p, and centres by the mean of all."""
    g = torch.Generator().manual_seed(images)
    x = torch.randn(images, 200, generator=g).double() * torch.linspace(0.2, 3, 200)
    _, wanted = oas(x.numpy(), assume_centered=True)
    found = shrinkage(x.T @ x / images, images)
    assert found == pytest.approx(wanted, rel=0.02) and found > LEAST_SHRINKAGE


def test_shrinkage_has_a_least_and_nothing_known_is_the_identity() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=g).double() * torch.linspace(0.2, 3, 6)
    assert shrinkage(x.T @ x / 2000, 2000) == LEAST_SHRINKAGE
    assert shrinkage(torch.zeros(6, 6).double(), 0) == 1.0
    assert shrinkage(torch.eye(6).double(), 50) == 1.0


def test_clients_together_are_the_pooled_data() -> None:
    x, y = drawn()
    parts = [statistics(x[a:b], y[a:b], 3) for a, b in ((0, 20), (20, 21), (21, 90))]
    pooled, together = discriminant_head([statistics(x, y, 3)]), discriminant_head(parts)
    torch.testing.assert_close(together.weight, pooled.weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.bias, pooled.bias, atol=1e-4, rtol=1e-4)


def test_a_class_that_nobody_has_is_never_preferred_by_weight() -> None:
    x, y = drawn()
    head = discriminant_head([statistics(x, y, 5)])
    assert not head.weight[3:].any()
    assert float(head.bias[3]) == float(head.bias[:3].min())
    nothing = discriminant_head([statistics(torch.zeros(0, 6), torch.zeros(0).long(), 5)])
    assert not nothing.weight.any() and not nothing.bias.any()
