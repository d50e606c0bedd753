"""FP8 weights as DeepSeek ships them: e4m3 values, and one float32 scale for each block of a matrix.

``W[i, j] = value[i, j] * scale[i // rows, j // columns]``, blocks of 128 x 128 (arXiv 2412.19437,
section 3.3.2). The scales of ``NAME.weight`` lie beside it as ``NAME.weight_scale_inv``.
"""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
SCALE = "_scale_inv"
"""What the name of a weight's scales ends in, after the weight's own name."""


def scale_shape(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the scales of a matrix [out, in]; blocks at the edges may be cut off."""
    return (-(-shape[0] // block[0]), -(-shape[1] // block[1]))


def dequantise(weight: Tensor, scale: Tensor, block: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """weight float8 [out, in] and its scales -> `dtype` [out, in], one row of blocks at a time.

    The products are computed in float32.
    """
    out = torch.empty(weight.shape, dtype=dtype)
    columns = scale.float().repeat_interleave(block[1], dim=1)[:, : weight.shape[1]]
    for n, row in enumerate(columns):
        here = slice(n * block[0], (n + 1) * block[0])
        out[here] = weight[here].float() * row
    return out
