"""Random crops, flips and brightness for a whole batch in one resampling; patches of others."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(pixels: Tensor, side: int, smallest_crop: float, generator: torch.Generator) -> Tensor:
    """Random resized crop and flip: [batch, 3, s, s] -> [batch, 3, side, side].

    Crops keep an area between `smallest_crop` and 1 with aspect 3/4 to 4/3; contrast and brightness
    vary by up to 0.2. Every image has draws of its own.
    """
    n = len(pixels)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    area, aspect = uniform(smallest_crop, 1.0), uniform(-math.log(4 / 3), math.log(4 / 3)).exp()
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(theta, [n, pixels.shape[1], side, side], align_corners=False)
    crops = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = uniform(0.8, 1.2), uniform(-0.2, 0.2)
    return crops * contrast[:, None, None, None] + brightness[:, None, None, None]


def cutmix(
    pixels: Tensor, targets: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paste a patch of another image of the batch into a `share` of the images (arXiv 1905.04899).

    pixels [n, channels, side, side], targets [n, classes] as probabilities: these are mixed by area.
    The area of a patch is uniform in [0, 1] before it is cut off at the border.
    """
    n, side = len(pixels), pixels.shape[-1]
    partner = torch.randperm(n, generator=generator)
    half = torch.rand(n, generator=generator).sqrt() * (side / 2)
    half = torch.where(torch.rand(n, generator=generator) < share, half, 0.0)
    centre = torch.rand(2, n, generator=generator) * side
    middles = torch.arange(side) + 0.5
    inside_y, inside_x = ((middles - c[:, None]).abs() < half[:, None] for c in centre)
    patch = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    area = patch.float().mean(dim=(1, 2, 3))[:, None]
    mixed = torch.where(patch, pixels[partner], pixels)
    return mixed, targets * (1 - area) + targets[partner] * area
