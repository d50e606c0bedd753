"""Tiny random models that adapters attach to, of both shapes: stock, silva's, and their memories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepseek_cases
import language_cases

from silva.models.attention import CausalAttention
from silva.models.attention_parts import Adaptable, adaptable
from silva.models.language_loader import load_language_model
from silva.models.latent import CausalLatents
from silva.models.llama import Llama

_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj")
_LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj")
_NO_QUERY_LATENT = ("q_proj", "kv_a_proj_with_mqa", "o_proj")
ALL = {
    "llama biases, odd head": _LLAMA,
    "smollm2": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "v3": _LATENT,
    "v3 tied, biases, halves": _LATENT,
    "v2 lite": _NO_QUERY_LATENT,
    "moonlight": _NO_QUERY_LATENT,
}
"""Every projection that can carry a pair, by family."""
FAMILIES = tuple(ALL)


def stock(family: str) -> Any:
    """The model of transformers."""
    cases = deepseek_cases if family in deepseek_cases.SHAPES else language_cases
    return cases.random_hf(family)


def loaded(folder: Path, family: str) -> Adaptable:
    """The same weights in silva's model, read from a directory in `folder`."""
    stock(family).save_pretrained(folder / "model")
    return adaptable(load_language_model(folder / "model"))


def memory(model: Adaptable, lengths: Sequence[int]) -> Any:
    """The plain memory of whole sequences, as the model takes it."""
    return CausalAttention(lengths) if isinstance(model, Llama) else CausalLatents(lengths)
