"""Names of adapted modules: silva's, and those of transformers 5 and 4."""

from __future__ import annotations

import re
from typing import Literal

from silva.errors import ForestError

Layout = Literal["hf5", "hf4"]
"""Whose names a PEFT directory carries: transformers 5 renamed the modules of its ViT."""

LAYOUTS: dict[str, str] = {"hf5": "transformers-5", "hf4": "transformers-4"}

_HF4 = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_SILVA = {old: new for new, old in _HF4.items()}
_LANGUAGE = re.compile(
    r"(?:model\.)?(layers\.[0-9]{1,4}\.self_attn\.(?:[qkvo]_proj|q_[ab]_proj|kv_a_proj_with_mqa))"
)
"""Attention of Llama- and DeepSeek-shaped models; both versions of transformers name it alike."""
_OWN = re.compile(r"layers\.([0-9]{1,4})\.(.+)")
_V5 = re.compile(r"(?:vit\.)?layers\.([0-9]{1,4})\.(.+)")
_V4 = re.compile(r"(?:vit\.)?encoder\.layer\.([0-9]{1,4})\.(.+)")


def to_transformers(module: str, layout: Layout) -> str:
    """`layers.0.attention.q_proj` as ViTForImageClassification of that layout names it.

    `layers.0.self_attn.q_proj` as LlamaForCausalLM and its like do.
    """
    if language := _LANGUAGE.fullmatch(module):
        return f"model.{language[1]}"
    match = _OWN.fullmatch(module)
    if not match or match[2] not in _HF4:
        raise ForestError(f"module {module[:80]!r} has no counterpart in transformers")
    if layout == "hf5":
        return f"vit.{module}"
    return f"vit.encoder.layer.{match[1]}.{_HF4[match[2]]}"


def from_transformers(module: str, where: object) -> str:
    """silva's name of a module of transformers 4 or 5; ForestError for one of another model."""
    if language := _LANGUAGE.fullmatch(module):
        return language[1]
    if (match := _V5.fullmatch(module)) and match[2] in _HF4:
        return f"layers.{int(match[1])}.{match[2]}"
    if (match := _V4.fullmatch(module)) and match[2] in _SILVA:
        return f"layers.{int(match[1])}.{_SILVA[match[2]]}"
    raise ForestError(
        f"module {module[:120]!r} is none of a Vision Transformer's linear layers, nor of the "
        "attention of a Llama- or DeepSeek-shaped model",
        where=where,
        remedy="import adapters of ViTForImageClassification or LlamaForCausalLM",
    )
