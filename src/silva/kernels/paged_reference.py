"""The plain twins of paged.py: gather a sequence's blocks, then torch's own attention.

Apart from reference.py because this one imports torch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def store_kv(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """As `paged.store_kv`."""
    blocks, places = slots // values.shape[2], slots % values.shape[2]
    keys[blocks, :, :, places] = k.to(keys.dtype)
    values[blocks, :, places] = v.to(values.dtype)


def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: NDArray[np.int32],
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    scale: float,
) -> Tensor:
    """As `paged.paged_attention`, one sequence after the other."""
    out = q.new_empty(len(q), q.shape[1], values.shape[3])
    for i, context in enumerate(contexts.tolist()):
        rows = slice(int(starts[i]), int(starts[i + 1]))
        blocks = torch.from_numpy(table[i, : -(-context // values.shape[2])]).long()
        sequence_attention(q[rows], keys[blocks], values[blocks], context, scale, out[rows])
    return out


def sequence_attention(
    q: Tensor, keys: Tensor, values: Tensor, context: int, scale: float, out: Tensor
) -> None:
    """Attention of the last ``len(q)`` of `context` tokens, whose blocks are `keys` and `values`."""
    k = keys.permute(1, 0, 3, 2).flatten(1, 2)[:, :context].to(q.dtype)
    v = values.transpose(0, 1).flatten(1, 2)[:, :context].to(q.dtype)
    mask = None
    if len(q) > 1:
        mask = torch.ones(len(q), context, dtype=torch.bool).tril(context - len(q))
    attended = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k[None],
        v[None],
        attn_mask=mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[0],
    )
    out.copy_(attended[0].transpose(0, 1))


def latent_attention(
    q: Tensor,
    pool: Tensor,
    table: NDArray[np.int32],
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    rank: int,
    scale: float,
) -> Tensor:
    """As `paged_latents.latent_attention`, one sequence after the other."""
    out = q.new_empty(len(q), q.shape[1], rank)
    for i, context in enumerate(contexts.tolist()):
        rows = slice(int(starts[i]), int(starts[i + 1]))
        out[rows] = mix_latents(q[rows], gather(pool, table[i], context).to(q.dtype), rank, scale)
    return out


def gather(pool: Tensor, table: NDArray[np.int32], context: int) -> Tensor:
    """The first `context` latents [context, size] of a sequence whose blocks are `table` [width]."""
    blocks = torch.from_numpy(table[: -(-context // pool.shape[1])]).long()
    return pool[blocks].flatten(0, 1)[:context]


def mix_latents(q: Tensor, latents: Tensor, rank: int, scale: float) -> Tensor:
    """Mixtures [queries, heads, rank] of the latents [keys, size] of one sequence, by absorbed
    queries [queries, heads, size] of its last tokens.
    """
    count, heads, size = q.shape
    # All heads meet the same latents: one matrix product for all of them.
    scores = (q.reshape(-1, size) @ latents.T).view(count, heads, -1).float() * scale
    if count > 1:
        seen = torch.ones(count, len(latents), dtype=torch.bool).tril(len(latents) - count)
        scores = scores.masked_fill(~seen[:, None], float("-inf"))
    share = scores.softmax(dim=-1).to(q.dtype).view(count * heads, -1)
    return (share @ latents[:, :rank]).view(count, heads, rank)
