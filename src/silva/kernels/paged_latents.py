"""Absorbed attention to latents in blocks (arXiv 2405.04434, section 2.1): checks, then the plain path.

A pool's latents of one layer are a view [blocks, block_tokens, size] whose last two axes are
contiguous. All heads read the same latents, whole as keys and their first `rank` values as values.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.kernels import paged_reference
from silva.kernels.paged import TYPES, check_sequences


def store_latents(latent: Tensor, pool: Tensor, slots: NDArray[np.int64]) -> None:
    """Write latent [tokens, size] to their slots [tokens], converted to the pool's type.

    Slot s is place ``s % block_tokens`` of block ``s // block_tokens``. Raises ValueError where
    shapes do not fit or a slot lies outside the pool; nothing is written then.
    """
    blocks, block_tokens, size = pool.shape
    if latent.shape != (len(slots), size):
        raise ValueError(f"latents {tuple(latent.shape)} do not fit the pool {tuple(pool.shape)}")
    if len(slots) and not 0 <= slots.min() <= slots.max() < blocks * block_tokens:
        raise ValueError("a slot lies outside the blocks")
    at = torch.from_numpy(slots)
    pool[at // block_tokens, at % block_tokens] = latent.to(pool.dtype)


def latent_attention(
    q: Tensor,
    pool: Tensor,
    table: NDArray[np.int32],
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    *,
    rank: int,
    scale: float,
) -> Tensor:
    """``softmax(q c^T scale) c[:, :rank]`` [tokens, heads, rank] in q's type, causal.

    q [tokens, heads, size] holds absorbed queries; `table`, `starts` and `contexts` are as in
    `paged.paged_attention`, and so are the errors.
    """
    blocks, block_tokens, size = pool.shape
    if q.shape[2] != size or not 0 < rank <= size:
        raise ValueError(f"q {tuple(q.shape)} does not fit the latents {tuple(pool.shape)}")
    if pool.dtype not in TYPES:
        raise ValueError(f"latents must be of {TYPES}, not {pool.dtype}")
    if len(starts) != len(table) + 1 or starts[0] != 0 or starts[-1] != len(q):
        raise ValueError("starts must begin at 0 and end with the tokens of q")
    check_sequences(table, starts, contexts, blocks, block_tokens)
    return paged_reference.latent_attention(q, pool, table, starts, contexts, rank, scale)
