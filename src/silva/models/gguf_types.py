"""The types of GGUF tensors that silva reads, and what their bytes mean.

Blocks of 32 weights share a scale d (and a minimum m), in half precision; 4-bit weights lie two to
a byte, the low halves being the first 16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TensorType:
    """Blocks of `block` weights in `size` bytes; `decode` turns whole blocks into float32."""

    name: str
    block: int
    size: int
    decode: Callable[[Bytes], Floats]

    def size_of(self, weights: int) -> int:
        """Bytes of so many weights, which are whole blocks."""
        return weights // self.block * self.size


def _f32(raw: Bytes) -> Floats:
    return raw.view("<f4")


def _f16(raw: Bytes) -> Floats:
    return raw.view("<f2").astype(np.float32)


def _bf16(raw: Bytes) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q8_0(raw: Bytes) -> Floats:
    blocks = raw.reshape(-1, 34)
    return (_half(blocks, 0) * blocks[:, 2:].view(np.int8)).reshape(-1)


def _q4_0(raw: Bytes) -> Floats:
    blocks = raw.reshape(-1, 18)
    return (_half(blocks, 0) * (_nibbles(blocks[:, 2:]) - np.float32(8))).reshape(-1)


def _q4_1(raw: Bytes) -> Floats:
    blocks = raw.reshape(-1, 20)
    return (_half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)).reshape(-1)


def _half(blocks: Bytes, at: int) -> Floats:
    """The half-precision number at byte `at` of each block, float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Floats:
    """[blocks, 16] bytes -> [blocks, 32] numbers from 0 to 15."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4, _f32),
    1: TensorType("F16", 1, 2, _f16),
    2: TensorType("Q4_0", 32, 18, _q4_0),
    3: TensorType("Q4_1", 32, 20, _q4_1),
    8: TensorType("Q8_0", 32, 34, _q8_0),
    30: TensorType("BF16", 1, 2, _bf16),
}
"""By their number in the format."""
