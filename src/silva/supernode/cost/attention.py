"""Attention on one die: the projections, and the core in its absorbed, plain and grouped forms.

Latent attention (DeepSeek-V2, section 2.1) keeps one latent of 512 + 64 values a token. Decode
absorbs the latent's second projection into query and output, so that all heads read the latent
itself; prefill expands it to plain heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from silva.supernode.cost.operator import WIDE_BYTES, Matrix, Op, matrix_op, norm, pass_op
from silva.supernode.hardware import MICRO, TERA, Hardware
from silva.supernode.model import Model
from silva.supernode.system import Precision, System


@dataclass(frozen=True, slots=True)
class Queries:
    """What one die's attention works on in one microbatch."""

    requests: float
    tokens: float
    """Query tokens, over all requests."""
    kv_len: float
    """Tokens that each request has in its cache."""


def attention_rate(hw: Hardware, precision: Precision, share: float) -> float:
    """FLOP/s of an attention core on `share` of the matrix cores (Table 8: 65.4 % of the peak)."""
    wide = precision.wide_attention / hw.die.bf16_tflops
    narrow = (1.0 - precision.wide_attention) / hw.die.low_precision_tops
    return share * hw.roof.attention_compute * TERA / (wide + narrow)


def core_op(hw: Hardware, precision: Precision, flops: float, memory: float, share: float) -> Op:
    """Flash attention: arithmetic beside the reading of `memory` bytes of cache.

    The two overlap as they do in the machine's matrix products: no source measures it for attention.
    """
    arithmetic = flops / attention_rate(hw, precision, share)
    reading = memory / hw.memory_bps
    seconds = norm(arithmetic, reading, hw.fitted.gemm_overlap)
    return Op("attention", "matrix", seconds + hw.static.matrix_us * MICRO, reading)


def decode_attention(system: System, queries: Queries, share: float, tensor: int) -> list[Op]:
    """Operators of one layer's attention in decode, from norm to output projection."""
    build = _absorbed if system.network.is_latent else _grouped
    return build(system, queries, share, tensor)


def _absorbed(system: System, queries: Queries, share: float, tensor: int) -> list[Op]:
    """Prolog fused into one operator, flash attention over latents, output (paper, section 4.2)."""
    hw, model, precision = system.machine, system.network, system.precision
    h, t = model.heads, queries.tokens
    heads, low, wide = h.query / tensor, precision.weight_bytes, precision.wide_weight_bytes
    prolog = (
        Matrix(t, h.query_rank + h.latent_rank + h.rope_size, model.hidden, weight_bytes=low),
        Matrix(t, heads * h.query_size, h.query_rank, weight_bytes=low),
        Matrix(t, h.latent_rank, h.nope_size, heads, wide, WIDE_BYTES),
    )
    width = 2 * h.latent_rank + h.rope_size
    flops = 2.0 * heads * t * queries.kv_len * width
    memory = queries.requests * queries.kv_len * system.cache_bytes
    value = Matrix(t, h.value_size, h.latent_rank, heads, wide, WIDE_BYTES)
    return [
        residual_norm(hw, model, t),
        matrix_op(hw, "prolog", prolog, share),
        core_op(hw, precision, flops, memory, share),
        matrix_op(hw, "value", (value,), share),
        *output_ops(system, t, share, tensor),
    ]


def _grouped(system: System, queries: Queries, share: float, tensor: int) -> list[Op]:
    """Grouped-query attention: one product for queries, keys and values, then flash attention."""
    hw, model, precision = system.machine, system.network, system.precision
    h, t = model.heads, queries.tokens
    keys = max(1.0, h.key / tensor)
    columns = h.query / tensor * h.query_size + keys * (h.query_size + h.value_size)
    flops = 2.0 * h.query / tensor * t * queries.kv_len * (h.query_size + h.value_size)
    memory = queries.requests * queries.kv_len * system.cache_bytes * keys / h.key
    into = Matrix(t, columns, model.hidden, weight_bytes=precision.weight_bytes)
    return [
        residual_norm(hw, model, t),
        matrix_op(hw, "prolog", (into,), share),
        core_op(hw, precision, flops, memory, share),
        *output_ops(system, t, share, tensor),
    ]


def residual_norm(hw: Hardware, model: Model, tokens: float) -> Op:
    """Add, normalise and quantise: two BF16 rows in, one of each precision out."""
    return pass_op(hw, "norm", tokens * model.hidden * (3 * WIDE_BYTES + 1.0))


def output_ops(system: System, tokens: float, share: float, tensor: int) -> list[Op]:
    """Quantisation of the heads' output and the projection that joins them."""
    hw, model = system.machine, system.network
    width = model.heads.query * model.heads.value_size / tensor
    product = Matrix(tokens, model.hidden, width, weight_bytes=system.precision.weight_bytes)
    return [
        pass_op(hw, "quantise", tokens * width * (WIDE_BYTES + 1.0)),
        matrix_op(hw, "output", (product,), share),
    ]


def plain_flops(model: Model, tokens: float, context: float, tensor: int = 1) -> float:
    """FLOP of plain attention for query tokens that see `context` tokens on average."""
    h = model.heads
    return 2.0 * h.query / tensor * (h.query_size + h.value_size) * tokens * context


def mean_context(prompt_len: float, cached: float) -> float:
    """Tokens that a computed token of a prompt sees on average: the cached ones, and half the rest."""
    return prompt_len * (cached + (1.0 - cached) / 2.0)
