"""Tensors of a Llama-shaped model in Hugging Face files: names, shapes, order, and the model's use.

The order is that of the files silva writes: q, k, v lie one below the other there, gate and up too,
so that each of these groups is one matrix without a copy. In files of others they may lie anywhere;
then a group is multiplied piece by piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

from silva.models.llama import LayerNorms, Linear, LlamaWeights
from silva.models.llama_config import LlamaConfig

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

_IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")

_GROUPS = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.o_proj",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}
"""silva's linear maps of one layer, and the modules of Hugging Face that each consists of."""

Read = Callable[[str], Tensor]
Join = Callable[[Sequence[str]], Tensor | None]


def is_ignored(name: str, config: LlamaConfig) -> bool:
    """Whether a tensor on disk is of no use: a tied head's copy, frequencies that old files hold."""
    return (name == HEAD and config.tied) or bool(_IGNORED.fullmatch(name))


def shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors by name, in the order in which silva writes them."""
    c = config
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (c.vocab_size, c.hidden_size)}
    for n in range(c.layers):
        at = f"model.layers.{n}."
        for group, modules in _GROUPS.items():
            sizes = [_linear(module, c) for module in modules]
            for module, (out, width) in zip(modules, sizes, strict=True):
                found[f"{at}{module}.weight"] = (out, width)
            if _has_bias(group, c):
                for module, (out, _) in zip(modules, sizes, strict=True):
                    found[f"{at}{module}.bias"] = (out,)
        if c.qk_norm:
            found[f"{at}self_attn.q_norm.weight"] = (c.head_size,)
            found[f"{at}self_attn.k_norm.weight"] = (c.head_size,)
        found[f"{at}input_layernorm.weight"] = (c.hidden_size,)
        found[f"{at}post_attention_layernorm.weight"] = (c.hidden_size,)
    found[NORM] = (c.hidden_size,)
    if not c.tied:
        found[HEAD] = (c.vocab_size, c.hidden_size)
    return found


def _linear(module: str, c: LlamaConfig) -> tuple[int, int]:
    """Rows and columns of one module's weight."""
    rows, columns = c.heads * c.head_size, c.hidden_size
    return {
        "self_attn.q_proj": (rows, columns),
        "self_attn.k_proj": (c.kv_heads * c.head_size, columns),
        "self_attn.v_proj": (c.kv_heads * c.head_size, columns),
        "self_attn.o_proj": (columns, rows),
        "mlp.gate_proj": (c.intermediate_size, columns),
        "mlp.up_proj": (c.intermediate_size, columns),
        "mlp.down_proj": (columns, c.intermediate_size),
    }[module]


def _has_bias(group: str, c: LlamaConfig) -> bool:
    if group == "attention.qkv":
        return c.qkv_bias
    return c.output_bias if group == "attention.output" else c.mlp_bias


def assemble(config: LlamaConfig, read: Read, join: Join) -> LlamaWeights:
    """The model's weights: `read(name)` gives a tensor, `join(names)` several as one, or None."""
    embedding = read(EMBEDDING)
    linears: dict[str, Linear] = {"head": ((embedding if config.tied else read(HEAD), None),)}
    norms = []
    for n in range(config.layers):
        at = f"model.layers.{n}."
        for group, modules in _GROUPS.items():
            names = [at + module for module in modules]
            linears[f"layers.{n}.{group}"] = _group(names, _has_bias(group, config), read, join)
        norms.append(
            LayerNorms(
                attention=read(f"{at}input_layernorm.weight"),
                mlp=read(f"{at}post_attention_layernorm.weight"),
                q=read(f"{at}self_attn.q_norm.weight") if config.qk_norm else None,
                k=read(f"{at}self_attn.k_norm.weight") if config.qk_norm else None,
            )
        )
    return LlamaWeights(embedding, linears, tuple(norms), read(NORM))


def _group(names: list[str], bias: bool, read: Read, join: Join) -> Linear:
    weights, biases = [f"{n}.weight" for n in names], [f"{n}.bias" for n in names]
    weight = join(weights)
    joined_bias = join(biases) if bias and weight is not None else None
    if weight is None or (bias and joined_bias is None):
        return tuple(
            (read(w), read(b) if bias else None) for w, b in zip(weights, biases, strict=True)
        )
    return ((weight, joined_bias),)
