"""Random crops, flips and brightness for a whole batch in one resampling."""

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
