"""The attention of one step over paged memory: what a model's `attend` is in serving."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.kernels import Backend
from silva.kernels.paged import paged_attention, store_kv
from silva.kernels.paged_latents import latent_attention, store_latents
from silva.kernels.paged_reference import gather
from silva.models.kept import Heads
from silva.models.latent import Halves, LatentHeads, attend_latents
from silva.serving.engine.kv import KVMemory


@dataclass(frozen=True)
class PagedStep:
    """Where the tokens of one step belong.

    The tokens of sequence i are rows ``starts[i]`` to ``starts[i + 1]``, the last of its
    ``contexts[i]`` tokens; ``places`` says where what each token keeps is written. All is written
    before any is read, so that a chunk sees itself.
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


class PagedAttend(PagedStep):
    """An `Attend` (silva.models.attention) for the tokens of one step."""

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


class PagedLatents(PagedStep):
    """A `DivisibleLatents` (silva.models.latent) for the tokens of one step.

    Sequences with few tokens, such as those that decode, meet the latents where they lie
    (absorbed); those with many have theirs gathered and expanded once (plain).
    """

    def __call__(self, layer: int, q: Tensor, latent: Tensor, heads: LatentHeads) -> Tensor:
        pool = self.memory.latents[layer]
        store_latents(latent, pool, self.places)
        counts = np.diff(self.starts)
        few = counts <= heads.break_even(latent.shape[1] - heads.rank)
        if few.all():
            return self._absorbed(q, pool, heads, self.table, self.starts, self.contexts)
        out = q.new_empty(len(q), q.shape[1], heads.value_size)
        for i in np.flatnonzero(~few).tolist():
            rows = slice(int(self.starts[i]), int(self.starts[i + 1]))
            known = gather(pool, self.table[i], int(self.contexts[i])).to(q.dtype)
            out[rows] = attend_latents(q[rows], known, heads, "plain")
        if few.any():
            mine = torch.from_numpy(np.flatnonzero(np.repeat(few, counts)))
            starts = np.concatenate([[0], counts[few].cumsum()]).astype(np.int32)
            table, contexts = self.table[few], self.contexts[few]
            out[mine] = self._absorbed(q[mine], pool, heads, table, starts, contexts)
        return out

    def halves(self) -> Halves | None:
        """See `DivisibleLatents`."""
        if len(self.contexts) < 2:
            return None
        # Sequences of the first half: as many as bring it nearest to half of the tokens.
        cut = 1 + int(np.abs(2 * self.starts[1:-1] - self.starts[-1]).argmin())
        rows = int(self.starts[cut])
        return Halves(rows, self._part(slice(cut)), self._part(slice(cut, None)))

    def _part(self, sequences: slice) -> PagedLatents:
        first, last, _ = sequences.indices(len(self.contexts))
        starts = self.starts[first : last + 1]
        return replace(
            self,
            table=self.table[sequences],
            starts=starts - starts[0],
            contexts=self.contexts[sequences],
            places=self.places[starts[0] : starts[-1]],
        )

    def _absorbed(
        self,
        q: Tensor,
        pool: Tensor,
        heads: LatentHeads,
        table: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
    ) -> Tensor:
        mixed = latent_attention(
            heads.absorb(q),
            pool,
            table,
            starts,
            contexts,
            rank=heads.rank,
            scale=heads.scale,
        )
        return heads.project(mixed).contiguous()


def attention_of(memory: KVMemory) -> type[PagedAttend | PagedLatents]:
    """The attention that goes with what a memory keeps."""
    return PagedAttend if isinstance(memory.shape.kept, Heads) else PagedLatents
