"""Memory of what tokens keep, of one peer: blocks of all layers, each one contiguous run of bytes.

A block holds, layer after layer, what `block_tokens` tokens keep (silva.models.kept), in the order
that the kernels want:

    heads    keys [kv_heads, key_size, block_tokens], then values [kv_heads, block_tokens, value_size]
    latent   [block_tokens, size]

Because all layers of a block lie together, moving one is one read with one checksum, and a block is
one object of the cache, whatever lies in it. A module for drafts has the layer after the model's.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import torch
from torch import Tensor

from silva.errors import ServingError
from silva.models.kept import Heads, Kept
from silva.models.language import LanguageConfig


@dataclass(frozen=True)
class KVShape:
    """What a block holds. Equal shapes mean that blocks can be moved as bytes."""

    layers: int
    kept: Kept
    """What a token keeps in each of them."""
    block_tokens: int
    dtype: torch.dtype

    @classmethod
    def of(
        cls, config: LanguageConfig, block_tokens: int, dtype: torch.dtype, *, drafts: int = 0
    ) -> KVShape:
        """The shape that a model of type `dtype` asks for, with so many of its draft modules."""
        return cls(config.layers + drafts, config.kept, block_tokens, dtype)

    @property
    def layer_elements(self) -> int:
        """Of one layer of one block."""
        return self.kept.elements * self.block_tokens

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
        layers = pool.view(blocks, shape.layers, shape.layer_elements).unbind(1)
        kept, tokens = shape.kept, shape.block_tokens
        self.keys: list[Tensor] = []
        """By layer, views [blocks, kv_heads, key_size, block_tokens]; of heads only."""
        self.values: list[Tensor] = []
        """By layer, views [blocks, kv_heads, block_tokens, value_size]; of heads only."""
        self.latents: list[Tensor] = []
        """By layer, views [blocks, block_tokens, size]; of latents only."""
        if isinstance(kept, Heads):
            first = kept.kv_heads * kept.key_size * tokens
            keys, values = (kept.kv_heads, kept.key_size, tokens), (kept.kv_heads, tokens, -1)
            self.keys = [layer[:, :first].unflatten(1, keys) for layer in layers]
            self.values = [layer[:, first:].unflatten(1, values) for layer in layers]
        else:
            self.latents = [layer.unflatten(1, (tokens, kept.size)) for layer in layers]

    def block(self, index: int) -> memoryview:
        """The bytes of one block, writable. Raises IndexError outside the pool."""
        if not 0 <= index < self.blocks:
            raise IndexError(f"block {index} of {self.blocks}")
        size = self.shape.block_bytes
        return self._bytes[index * size : (index + 1) * size]

    def offset(self, index: int) -> int:
        """Where a block's bytes begin in the buffer."""
        return index * self.shape.block_bytes
