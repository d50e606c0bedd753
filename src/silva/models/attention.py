"""The seam between a language model and its memory of keys and values.

A model computes q, k and v of the tokens of one step and hands them to an `Attend`; where keys and
values live (paged blocks, a plain tensor, nowhere) is the attention's affair. The tokens of a step
may belong to many sequences: the attention knows which and at what positions, the model does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Attend(Protocol):
    """Causal attention of one step's tokens to everything of their own sequences.

    Made anew, or told anew what the step holds, before each step; the model then calls it once a
    layer, layers in ascending order.
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write k and v of this step to the memory of `layer`, then attend.

        q [tokens, heads, head_size]; k, v [tokens, kv_heads, head_size] with positions already
        applied; head h reads the keys of head ``h // (heads / kv_heads)``. Returns
        ``softmax(q k^T / sqrt(head_size)) v`` [tokens, heads, head_size], contiguous. A token at
        position p sees the positions 0 to p of its sequence. The inputs may be views with strides.
        """
        ...


class CausalAttention:
    """The plain form: whole sequences one after the other, from position 0, nothing remembered.

    The slow truth that paged attention is compared with, and the dense form for training.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        """`lengths` of the sequences in tokens; they sum up to the tokens of the step."""
        self._lengths = list(lengths)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pieces = zip(*(t.split(self._lengths) for t in (q, k, v)), strict=True)
        return torch.cat([causal(*piece) for piece in pieces])


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last ``len(q)`` tokens of one sequence to all its ``len(k)`` tokens.

    q [queries, heads, head_size]; k, v [keys, kv_heads, head_size] -> [queries, heads, head_size].
    """
    queries, keys = len(q), len(k)
    mask = None
    if 1 < queries < keys:
        # is_causal is aligned to the first key, and here the queries end where the keys end
        mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=queries == keys and queries > 1,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1).contiguous()
