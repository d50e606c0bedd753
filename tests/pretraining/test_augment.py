from __future__ import annotations

import pytest
import torch

from silva.pretraining.augment import augment, cutmix


def draw(seed: int, side: int = 8, crop: float = 0.35) -> torch.Tensor:
    pixels = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    return augment(pixels, side, crop, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [4, 8, 16, 20])
def test_shape(side: int) -> None:
    views = draw(0, side)
    assert views.shape == (6, 3, side, side)
    assert views.isfinite().all()


def test_deterministic_by_generator_alone() -> None:
    torch.manual_seed(1)
    first = draw(5)
    torch.manual_seed(2)
    assert torch.equal(first, draw(5))
    assert not torch.equal(first, draw(6))


def test_every_image_has_draws_of_its_own() -> None:
    same = torch.randn(1, 3, 16, 16).expand(4, -1, -1, -1)
    views = augment(same, 16, 0.35, torch.Generator().manual_seed(0))
    assert len(views.flatten(1).unique(dim=0)) == 4


def test_flat_images_change_in_brightness_only() -> None:
    views = augment(torch.ones(8, 3, 16, 16), 8, 0.35, torch.Generator().manual_seed(0))
    assert torch.allclose(views.amin(dim=(1, 2, 3)), views.amax(dim=(1, 2, 3)), atol=1e-5)
    assert views.min() >= 0.6 - 1e-5
    assert views.max() <= 1.4 + 1e-5


def test_cutmix_mixes_targets_by_the_area_of_the_patch() -> None:
    n, side = 24, 8
    pixels = torch.arange(n).float()[:, None, None, None].expand(n, 3, side, side)
    targets = torch.eye(n)
    mixed, wanted = cutmix(pixels, targets, 1.0, torch.Generator().manual_seed(0))
    for row in range(n):
        values, counts = mixed[row, 0].unique(return_counts=True)
        shares = torch.zeros(n)
        shares[values.long()] = counts / side**2
        torch.testing.assert_close(wanted[row], shares)
    assert (wanted.max(dim=1).values < 1).sum() > n // 2


def test_cutmix_leaves_all_other_images_alone() -> None:
    pixels, targets = torch.randn(16, 3, 8, 8), torch.eye(16)
    mixed, wanted = cutmix(pixels, targets, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(mixed, pixels) and torch.equal(wanted, targets)
