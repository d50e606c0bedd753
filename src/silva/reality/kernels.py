"""What one engine's share of this machine does: products, attention, memory, transfers.

Each figure is the best of repeated runs: what the hardware gives, not what the moment left of it.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from silva.kernels.paged import paged_attention
from silva.models.llama_config import LlamaConfig
from silva.transfer import open_transfer
from silva.transfer.open import Kind

Rows = list[tuple[float, ...]]
_SECONDS = 0.25
_LARGE = 64 << 20
"""Bytes that no cache holds."""
_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Kernels:
    """Rates in units a second, times in seconds; of `threads` threads."""

    threads: int
    peak_flops: float
    """The fastest product that was measured."""
    vector_flops: float
    memory_bps: float
    """Reading, by the sum of a large vector or by a product of few rows."""
    copy_bps: float
    start_s: float
    """A product of next to nothing."""
    pass_s: float
    """An elementwise operator of next to nothing."""
    products: Rows
    """Rows, columns, inner, operations a second: many rows."""
    narrow: Rows
    """The same of few rows, which read their weights."""
    prefill_attention_flops: float
    shm_bps: float
    shm_s: float
    tcp_bps: float
    tcp_s: float
    file_bps: float
    """Reading a file that was just written."""


def measure_kernels(threads: int, model: LlamaConfig, dtype: torch.dtype, block: int) -> Kernels:
    """All of it, in some ten seconds; the shapes of products and attention are those of a model."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        shapes = _shapes(model)
        many = (64, 256)
        products = [_product(rows, *shape, dtype) for rows in many for shape in shapes]
        narrow = [_product(rows, *shape, dtype) for rows in (1, 4, 16) for shape in shapes]
        large = torch.ones(_LARGE // 4)
        other = torch.empty_like(large)
        small = torch.ones(8, 8)
        cached = torch.ones(4096)
        memory_s = best_s(lambda: large.sum())
        copy_s = best_s(lambda: other.copy_(large))
        vector_s = best_s(lambda: cached.mul_(0.5).add_(0.5))
        attention_flops = _attention(model, dtype, block, threads)
        start_s, pass_s = best_s(lambda: small @ small), best_s(lambda: small + small)
    shm, tcp = _transfer("shm"), _transfer("tcp")
    return Kernels(
        threads=threads,
        peak_flops=max(row[3] for row in (*products, *narrow)),
        vector_flops=2 * 4096 / vector_s,
        memory_bps=max(_LARGE / memory_s, *(_read_bps(row, dtype) for row in narrow)),
        copy_bps=_LARGE / copy_s,
        start_s=start_s,
        pass_s=pass_s,
        products=products,
        narrow=narrow,
        prefill_attention_flops=attention_flops,
        shm_bps=shm[0],
        shm_s=shm[1],
        tcp_bps=tcp[0],
        tcp_s=tcp[1],
        file_bps=_file_bps(),
    )


def _read_bps(row: tuple[float, ...], dtype: torch.dtype) -> float:
    """Bytes a second of the weights of a product, from its operations a second."""
    return row[3] / 2 / row[0] * dtype.itemsize


def best_s(work: Callable[[], object], seconds: float = _SECONDS) -> float:
    """Seconds of one call, the shortest of those within `seconds`; short calls are timed together."""
    work()
    start = time.perf_counter()
    work()
    times = max(1, int(1e-3 / max(time.perf_counter() - start, 1e-7)))
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(times):
            work()
        best = min(best, (time.perf_counter() - start) / times)
    return max(best, 1e-9)


def _shapes(model: LlamaConfig) -> list[tuple[int, int]]:
    """Columns and inner sizes of a layer's products, joined as the model joins them, and the head."""
    heads, keys, size = model.heads, model.kv_heads, model.head_size
    return [
        ((heads + 2 * keys) * size, model.hidden_size),
        (2 * model.intermediate_size, model.hidden_size),
        (model.hidden_size, model.intermediate_size),
        (min(model.vocab_size, 1 << 16), model.hidden_size),
    ]


def _product(rows: int, columns: int, inner: int, dtype: torch.dtype) -> tuple[float, ...]:
    left = torch.randn(rows, inner, dtype=dtype)
    # Weights that take turns are read from memory, as those of a whole model are.
    count = max(1, min(16, _LARGE // (columns * inner * dtype.itemsize)))
    weights = [torch.randn(columns, inner, dtype=dtype) for _ in range(count)]
    turn = iter(range(1 << 60))
    seconds = best_s(lambda: torch.nn.functional.linear(left, weights[next(turn) % count]))
    return (rows, columns, inner, 2.0 * rows * columns * inner / seconds)


def _attention(model: LlamaConfig, dtype: torch.dtype, block: int, threads: int) -> float:
    """Operations a second of a prompt's causal attention to what stands before it and itself."""
    tokens = max(block, min(1024, model.context) // block * block)
    heads, kv_heads, size = model.heads, model.kv_heads, model.head_size
    keys = torch.randn(tokens // block, kv_heads, size, block, dtype=dtype)
    values = torch.randn(tokens // block, kv_heads, block, size, dtype=dtype)
    table = np.arange(tokens // block, dtype=np.int32)[None]
    contexts = np.array([tokens], np.int32)

    new = max(1, tokens // 4)
    q = torch.randn(new, heads, size, dtype=dtype)
    starts = np.array([0, new], np.int32)
    seconds = best_s(
        lambda: paged_attention(q, keys, values, table, starts, contexts, threads=threads)
    )
    pairs = new * tokens - new * (new - 1) / 2
    return 4.0 * heads * size * pairs / seconds


def _transfer(kind: Kind) -> tuple[float, float]:
    """Bytes a second of large reads, verified; seconds of a read of next to nothing."""
    secret = secrets.token_bytes(32)
    with open_transfer(kind, secret) as owner, open_transfer(kind, secret) as reader:
        exposed = owner.allocate(_READ_BYTES)
        exposed.buffer[:] = os.urandom(1 << 10) * (_READ_BYTES >> 10)
        whole, tiny = exposed.piece(0, _READ_BYTES), exposed.piece(0, 64)
        target, little = bytearray(_READ_BYTES), bytearray(64)
        first_s = best_s(lambda: reader.read(tiny, little))
        whole_s = best_s(lambda: reader.read(whole, target))
        exposed.close()
    return _READ_BYTES / max(whole_s - first_s, 1e-9), first_s


def _file_bps() -> float:
    with tempfile.TemporaryDirectory(prefix="silva-reality-") as folder:
        path = Path(folder) / "file"
        path.write_bytes(b"\0" * _LARGE)
        return _LARGE / best_s(path.read_bytes)
