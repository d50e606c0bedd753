"""Attention to keys and values that lie in blocks: checks, choice of backend.

A pool's keys of one layer are a view [blocks, kv_heads, key_size, block_tokens] and its values a view
[blocks, kv_heads, block_tokens, value_size], each with its last two axes contiguous; where blocks and
heads lie is free, and so is whether key_size equals value_size. Keys are turned so that both products
of attention run along whole vectors (attention.cpp).

Apart from native.py because this one imports torch.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.errors import MissingExtraError
from silva.kernels import native, paged_reference
from silva.kernels.native import REMEDY, Backend

MAX_THREADS = 64
"""Of one call."""

TYPES = (torch.float32, torch.bfloat16)
"""Of keys and values."""


def store_kv(
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: NDArray[np.int64],
    backend: Backend = "auto",
) -> None:
    """Write k [tokens, kv_heads, key_size] and v [tokens, kv_heads, value_size] to their slots.

    Slot s is place ``s % block_tokens`` of block ``s // block_tokens``; slots [tokens]. k and v may
    have strides and are converted to the pool's type. Raises ValueError where shapes do not fit or
    a slot lies outside the pool; nothing is written then.
    """
    blocks, kv_heads, key_size, block_tokens = keys.shape
    value_size = values.shape[3]
    if k.shape != (len(slots), kv_heads, key_size) or v.shape != (len(slots), kv_heads, value_size):
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} do not fit the pool")
    compiled = _choose(keys, values, backend)
    if compiled is None:
        if len(slots) and not 0 <= slots.min() <= slots.max() < blocks * block_tokens:
            raise ValueError("a slot lies outside the blocks")
        paged_reference.store_kv(k, v, keys, values, torch.from_numpy(slots))
        return
    k, v = _rows(k, keys.dtype), _rows(v, keys.dtype)
    sizes = (kv_heads, key_size, value_size, block_tokens, blocks)
    strides = (k.stride(0), k.stride(1), v.stride(0), v.stride(1))
    pool = (keys.stride(0), keys.stride(1), values.stride(0), values.stride(1))
    compiled.store_kv(
        k.data_ptr(),
        v.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        keys.dtype is torch.bfloat16,
        sizes + strides + pool,
        slots,
    )


def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: NDArray[np.int32],
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    *,
    scale: float | None = None,
    threads: int = 1,
    backend: Backend = "auto",
) -> Tensor:
    """``softmax(q k^T scale) v`` [tokens, heads, value_size] in q's type, causal.

    q [tokens, heads, key_size] holds the queries of several sequences one after the other: those of
    sequence i are rows ``starts[i]`` to ``starts[i + 1]``, the last tokens of its ``contexts[i]``
    tokens, whose keys and values lie in the blocks ``table[i]`` in order. A query sees itself and
    what is before it. Head h reads keys of head ``h // (heads / kv_heads)``. `scale` is
    ``key_size ** -0.5`` unless given. A row's result does not depend on what else is in the call,
    nor on `threads`.

    Sums are float32. `portable` gathers each sequence's blocks and calls torch.

    Raises ValueError where shapes do not fit, a sequence has more queries than tokens or a table
    names a block that does not exist.
    """
    blocks, kv_heads, key_size, block_tokens = keys.shape
    tokens, heads, size = q.shape
    if size != key_size or not kv_heads or heads % kv_heads or not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"q {tuple(q.shape)} does not fit the keys {tuple(keys.shape)}")
    if len(starts) != len(table) + 1 or starts[0] != 0 or starts[-1] != tokens:
        raise ValueError("starts must begin at 0 and end with the tokens of q")
    scale = key_size**-0.5 if scale is None else scale
    compiled = _choose(keys, values, backend)
    if compiled is None:
        check_sequences(table, starts, contexts, blocks, block_tokens)
        return paged_reference.paged_attention(q, keys, values, table, starts, contexts, scale)
    queries = _rows(q, torch.float32)
    out = torch.empty(tokens, heads, values.shape[3])
    sizes = (heads, kv_heads, key_size, values.shape[3], block_tokens, blocks)
    strides = (queries.stride(0), queries.stride(1), keys.stride(0), keys.stride(1))
    compiled.paged_attention(
        out.data_ptr(),
        queries.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        keys.dtype is torch.bfloat16,
        (*sizes, *strides, values.stride(0), values.stride(1)),
        table,
        starts,
        contexts,
        scale,
        threads,
    )
    return out.to(q.dtype)


def _choose(keys: Tensor, values: Tensor, backend: Backend) -> ModuleType | None:
    """The compiled module, or None for the twin; ValueError for a pool that is none."""
    blocks, kv_heads, _, block_tokens = keys.shape
    if values.shape[:3] != (blocks, kv_heads, block_tokens) or keys.dtype is not values.dtype:
        raise ValueError(f"keys {tuple(keys.shape)} and values {tuple(values.shape)} do not fit")
    if keys.dtype not in TYPES:
        raise ValueError(f"keys and values must be of {TYPES}, not {keys.dtype}")
    compiled = None if backend == "portable" else native.compiled()
    if compiled is None:
        if backend == "native":
            raise MissingExtraError("the native module was not built", remedy=REMEDY)
        return None
    whole = keys.stride()[2:] == (block_tokens, 1) and values.stride()[2:] == (values.shape[3], 1)
    if not whole:
        raise ValueError("the last two axes of keys and of values must be contiguous")
    return compiled


def check_sequences(
    table: NDArray[np.int32],
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    blocks: int,
    block_tokens: int,
) -> None:
    """ValueError where the compiled operator would raise it."""
    for row, count, context in zip(table, np.diff(starts), contexts, strict=True):
        if not 0 <= count <= context:
            raise ValueError("a sequence has more queries than tokens")
        used = row[: -(-context // block_tokens)]
        if len(used) * block_tokens < context:
            raise ValueError("a context is longer than its block table")
        if len(used) and not 0 <= used.min() <= used.max() < blocks:
            raise ValueError("a block table names a block that does not exist")


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in `dtype`, its last axis contiguous."""
    x = x.to(dtype)
    return x if x.stride(2) == 1 else x.contiguous()
