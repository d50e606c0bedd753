"""Tensors of a DeepSeek-shaped model in Hugging Face files: names, shapes, and the model's use.

Draft modules lie as further layers after the model's, with copies of embedding and head that are
never read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from silva.models.deepseek import (
    AttentionWeights,
    DeepseekWeights,
    DraftWeights,
    GateWeights,
    LayerWeights,
    MlpWeights,
)
from silva.models.deepseek_config import DeepseekConfig
from silva.models.latent import LatentHeads
from silva.models.llama import Linear

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

CORRECTION = "mlp.gate.e_score_correction_bias"

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_COPIES = ("embed_tokens.weight", "shared_head.head.weight")
"""Of the model's embedding and head, in a draft module."""

Shapes = dict[str, tuple[int, ...]]
Read = Callable[[str], Tensor]


def is_ignored(name: str, config: DeepseekConfig) -> bool:
    """Whether a tensor on disk is of no use: copies, frequencies, and modules not asked for."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return name == HEAD and config.tied
    layer, rest = int(match[1]), match[2]
    if rest == "self_attn.rotary_emb.inv_freq" or layer >= config.layers + config.drafts:
        return True
    return layer >= config.layers and rest in _COPIES


def type_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """What a tensor of a model of type `dtype` is used as: a choice of experts may hang on the last
    bit of a correction bias.
    """
    return torch.float32 if name.endswith(CORRECTION) else dtype


def draft_layer(config: DeepseekConfig) -> str:
    """What the names of the first draft module's tensors begin with."""
    return f"model.layers.{config.layers}."


def shapes(config: DeepseekConfig) -> Shapes:
    """Shapes of all tensors by name, all experts and draft modules among them."""
    c = config
    found: Shapes = {EMBEDDING: (c.vocab_size, c.hidden_size), NORM: (c.hidden_size,)}
    if not c.tied:
        found[HEAD] = (c.vocab_size, c.hidden_size)
    for n in range(c.layers + c.drafts):
        at = f"model.layers.{n}."
        parts = {**_attention_shapes(c), **_mlp_shapes(c, n)}
        if n >= c.layers:
            parts |= {f"{norm}.weight": (c.hidden_size,) for norm in _DRAFT_NORMS}
            parts["eh_proj.weight"] = (c.hidden_size, 2 * c.hidden_size)
        found |= {at + name: shape for name, shape in parts.items()}
    return found


_DRAFT_NORMS = ("enorm", "hnorm", "shared_head.norm")


def _attention_shapes(c: DeepseekConfig) -> Shapes:
    wide = c.heads * (c.nope_size + c.rope_size)
    down = c.kv_rank + c.rope_size
    found: Shapes = {
        "input_layernorm.weight": (c.hidden_size,),
        "post_attention_layernorm.weight": (c.hidden_size,),
        "self_attn.kv_a_proj_with_mqa.weight": (down, c.hidden_size),
        "self_attn.kv_a_layernorm.weight": (c.kv_rank,),
        "self_attn.kv_b_proj.weight": (c.heads * (c.nope_size + c.value_size), c.kv_rank),
        "self_attn.o_proj.weight": (c.hidden_size, c.heads * c.value_size),
    }
    biased: Shapes = {"kv_a_proj_with_mqa": (down,), "o_proj": (c.hidden_size,)}
    if c.q_rank is None:
        found["self_attn.q_proj.weight"] = (wide, c.hidden_size)
    else:
        found["self_attn.q_a_proj.weight"] = (c.q_rank, c.hidden_size)
        found["self_attn.q_a_layernorm.weight"] = (c.q_rank,)
        found["self_attn.q_b_proj.weight"] = (wide, c.q_rank)
        biased["q_a_proj"] = (c.q_rank,)
    if c.bias:
        found |= {f"self_attn.{name}.bias": shape for name, shape in biased.items()}
    return found


def _mlp_shapes(c: DeepseekConfig, layer: int) -> Shapes:
    if not c.has_experts(layer):
        return _swiglu_shapes("mlp.", c.hidden_size, c.intermediate_size)
    found: Shapes = {"mlp.gate.weight": (c.experts, c.hidden_size)}
    if c.gate.scoring == "sigmoid":
        found[CORRECTION] = (c.experts,)
    if c.shared_experts:
        inner = c.shared_experts * c.expert_size
        found |= _swiglu_shapes("mlp.shared_experts.", c.hidden_size, inner)
    # In the order of `expert_names`, so that silva's own files have each kind in one piece.
    experts = [
        _swiglu_shapes(f"mlp.experts.{expert}.", c.hidden_size, c.expert_size)
        for expert in range(c.experts)
    ]
    for kinds in (("gate_proj", "up_proj"), ("down_proj",)):
        for shapes_ in experts:
            found |= {n: s for n, s in shapes_.items() if n.split(".")[-2] in kinds}
    return found


def _swiglu_shapes(at: str, hidden: int, inner: int) -> Shapes:
    return {
        f"{at}gate_proj.weight": (inner, hidden),
        f"{at}up_proj.weight": (inner, hidden),
        f"{at}down_proj.weight": (hidden, inner),
    }


@dataclass(frozen=True)
class ExpertNames:
    """The matrices of some experts: [inner, hidden], and the last [hidden, inner]."""

    gate_up: tuple[str, ...]
    """Gate and up of one expert after the other."""
    down: tuple[str, ...]


def expert_names(layer: int, experts: tuple[int, ...]) -> ExpertNames:
    """Tensors of these experts of a layer, in their order."""
    at = [f"model.layers.{layer}.mlp.experts.{e}." for e in experts]
    return ExpertNames(
        tuple(a + name for a in at for name in ("gate_proj.weight", "up_proj.weight")),
        tuple(f"{a}down_proj.weight" for a in at),
    )


def assemble(config: DeepseekConfig, read: Read) -> DeepseekWeights:
    """Everything but the experts: `read(name)` gives a tensor of the type of the model."""
    embedding = read(EMBEDDING)
    return DeepseekWeights(
        embedding,
        tuple(_layer(config, n, read) for n in range(config.layers)),
        read(NORM),
        embedding if config.tied else read(HEAD),
        tuple(_draft(config, config.layers + n, read) for n in range(config.drafts)),
    )


def _draft(c: DeepseekConfig, n: int, read: Read) -> DraftWeights:
    at = f"model.layers.{n}."
    token, hidden, last = (read(f"{at}{norm}.weight") for norm in _DRAFT_NORMS)
    project: Linear = ((read(f"{at}eh_proj.weight"), None),)
    return DraftWeights(token, hidden, project, _layer(c, n, read), last)


def _layer(c: DeepseekConfig, n: int, read: Read) -> LayerWeights:
    at = f"model.layers.{n}."
    norm = read(f"{at}post_attention_layernorm.weight")
    attention = _attention(c, at, read)
    if not c.has_experts(n):
        return LayerWeights(attention, norm, _swiglu(f"{at}mlp.", read), None)
    bias = None
    if c.gate.scoring == "sigmoid":
        bias = read(at + CORRECTION)
    gate = GateWeights(read(f"{at}mlp.gate.weight").float(), bias)
    shared = _swiglu(f"{at}mlp.shared_experts.", read) if c.shared_experts else None
    return LayerWeights(attention, norm, shared, gate)


def _attention(c: DeepseekConfig, at: str, read: Read) -> AttentionWeights:
    def linear(name: str, biased: bool = False) -> Linear:
        bias = read(f"{at}self_attn.{name}.bias") if biased else None
        return ((read(f"{at}self_attn.{name}.weight"), bias),)

    latent = c.q_rank is not None
    up = read(f"{at}self_attn.kv_b_proj.weight")
    return AttentionWeights(
        norm=read(f"{at}input_layernorm.weight"),
        q_down=linear("q_a_proj", c.bias) if latent else None,
        q_norm=read(f"{at}self_attn.q_a_layernorm.weight") if latent else None,
        q_up=linear("q_b_proj" if latent else "q_proj"),
        kv_down=linear("kv_a_proj_with_mqa", c.bias),
        kv_norm=read(f"{at}self_attn.kv_a_layernorm.weight"),
        heads=LatentHeads(up.view(c.heads, -1, c.kv_rank), c.nope_size, c.softmax_scale),
        output=linear("o_proj", c.bias),
    )


def _swiglu(at: str, read: Read) -> MlpWeights:
    gate, up, down = (read(f"{at}{name}_proj.weight") for name in ("gate", "up", "down"))
    return MlpWeights(((gate, None), (up, None)), ((down, None),))
