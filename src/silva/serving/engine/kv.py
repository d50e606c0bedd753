"""Memory of keys and values of one peer: blocks of all layers, each one contiguous run of bytes.

A block holds, layer after layer, the keys [kv_heads, key_size, block_tokens] and then the values
[kv_heads, block_tokens, value_size] of `block_tokens` tokens: the order that the kernels want
(silva.kernels.paged). Because all layers of a block lie together, moving one is one read with one
checksum, and a block is one object of the cache.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from silva.errors import ServingError
from silva.models.language import LanguageModel


@dataclass(frozen=True)
class KVShape:
    """What a block holds. Equal shapes mean that blocks can be moved as bytes."""

    layers: int
    kv_heads: int
    key_size: int
    value_size: int
    block_tokens: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: LanguageModel, block_tokens: int) -> KVShape:
        """The shape that a model's attention asks for.

        Raises ServingError for a model that keeps something else than keys and values of heads.
        """
        if len(model.kv_shape) != 3 or model.kv_shape[0] != 2:
            what = f"{model.name} keeps {model.kv_shape} for a token, not keys and values of heads"
            raise ServingError(what, remedy="serve a Llama-shaped model")
        _, kv_heads, head_size = model.kv_shape
        return cls(model.config.layers, kv_heads, head_size, head_size, block_tokens, model.dtype)

    @property
    def key_elements(self) -> int:
        """Of one layer of one block."""
        return self.kv_heads * self.key_size * self.block_tokens

    @property
    def layer_elements(self) -> int:
        """Keys and values of one layer of one block."""
        return self.kv_heads * (self.key_size + self.value_size) * self.block_tokens

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, all layers."""
        return self.layers * self.layer_elements * self.dtype.itemsize

    def blocks_in(self, size_bytes: int) -> int:
        """Blocks that fit into so many bytes. Raises ServingError when not even one does."""
        blocks = size_bytes // self.block_bytes
        if blocks < 1:
            what = f"{size_bytes} bytes hold no block of {self.block_bytes} bytes"
            raise ServingError(what, remedy="give more memory to keys and values")
        return blocks


class KVMemory:
    """`blocks` blocks over a buffer of the caller's, or over memory of its own.

    The buffer is not cleared: what was never written is never read.
    """

    def __init__(
        self, shape: KVShape, blocks: int, buffer: bytearray | memoryview | None = None
    ) -> None:
        """`buffer`: writable, contiguous, at least ``blocks * shape.block_bytes`` bytes.

        Raises ValueError for another.
        """
        size = blocks * shape.block_bytes
        # Anonymous pages cost nothing until they are written.
        view = memoryview(mmap.mmap(-1, size) if buffer is None else buffer)
        if view.readonly or not view.c_contiguous or view.nbytes < size or blocks < 1:
            raise ValueError(f"a pool of {blocks} blocks needs {size} writable, contiguous bytes")
        self.shape, self.blocks = shape, blocks
        self._bytes = view.cast("B")[:size]
        pool = torch.frombuffer(self._bytes, dtype=shape.dtype)
        by_layer = pool.view(blocks, shape.layers, shape.layer_elements)
        self.keys = [self._keys(by_layer[:, n]) for n in range(shape.layers)]
        """By layer, views [blocks, kv_heads, key_size, block_tokens]."""
        self.values = [self._values(by_layer[:, n]) for n in range(shape.layers)]
        """By layer, views [blocks, kv_heads, block_tokens, value_size]."""

    def block(self, index: int) -> memoryview:
        """The bytes of one block, writable. Raises IndexError outside the pool."""
        if not 0 <= index < self.blocks:
            raise IndexError(f"block {index} of {self.blocks}")
        size = self.shape.block_bytes
        return self._bytes[index * size : (index + 1) * size]

    def offset(self, index: int) -> int:
        """Where a block's bytes begin in the buffer."""
        return index * self.shape.block_bytes

    def _keys(self, layer: Tensor) -> Tensor:
        s = self.shape
        return layer[:, : s.key_elements].unflatten(1, (s.kv_heads, s.key_size, s.block_tokens))

    def _values(self, layer: Tensor) -> Tensor:
        s = self.shape
        return layer[:, s.key_elements :].unflatten(1, (s.kv_heads, s.block_tokens, s.value_size))
