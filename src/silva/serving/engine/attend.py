"""The attention of one step over paged memory: what a model's `Attend` is in serving."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from silva.kernels import Backend
from silva.kernels.paged import paged_attention, store_kv
from silva.serving.engine.kv import KVMemory


@dataclass(frozen=True)
class PagedAttend:
    """An `Attend` (silva.models.attention) for the tokens of one step.

    The tokens of sequence i are rows ``starts[i]`` to ``starts[i + 1]``, the last of its
    ``contexts[i]`` tokens; ``places`` says where each token's key and value are written. All are
    written before any is read, so that a chunk sees itself.
    """

    memory: KVMemory
    table: NDArray[np.int32]
    """[sequences, width]"""
    starts: NDArray[np.int32]
    """[sequences + 1]"""
    contexts: NDArray[np.int32]
    """[sequences]"""
    places: NDArray[np.int64]
    """[tokens] block times block_tokens, plus the place in the block"""
    threads: int = 1
    backend: Backend = "auto"

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.memory.keys[layer], self.memory.values[layer]
        store_kv(k, v, keys, values, self.places, self.backend)
        return paged_attention(
            q,
            keys,
            values,
            self.table,
            self.starts,
            self.contexts,
            threads=self.threads,
            backend=self.backend,
        )
