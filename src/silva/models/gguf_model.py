"""A language model in a GGUF file, seen as a Hugging Face one: its configuration and its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silva.errors import ModelError
from silva.models import llama_tensors
from silva.models.fields import short
from silva.models.gguf_file import GGUFFile
from silva.models.llama import inverse_frequencies
from silva.models.llama_config import LlamaConfig, Rope, llama_config
from silva.models.weight_files import compare_shapes

FREQUENCIES = "rope_freqs.weight"

_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTSIDE = {
    llama_tensors.EMBEDDING: "token_embd.weight",
    llama_tensors.NORM: "output_norm.weight",
    llama_tensors.HEAD: "output.weight",
}
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
ARCHITECTURES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}


class GGUFModel:
    """Configuration and tensors of a file, compared with each other; nothing is decoded yet."""

    def __init__(self, file: GGUFFile) -> None:
        """Raises ModelError for architectures, settings and shapes that silva does not know."""
        self.file = file
        self.settings = _settings(file)
        self.config: LlamaConfig = llama_config(self.settings, file.path)
        scaling = _scaling(file, self.config)
        if scaling is not None:
            self.settings["rope_parameters"] = scaling
            self.config = llama_config(self.settings, file.path)
        found = {n: t.shape for n, t in file.tensors.items() if n != FREQUENCIES}
        expected = {gguf_name(n): s for n, s in llama_tensors.shapes(self.config).items()}
        compare_shapes(found, expected, file.path)

    def tensor(self, name: str) -> Tensor:
        """A tensor by Hugging Face's name, float32."""
        tensor = torch.from_numpy(self.file.read(gguf_name(name)))
        c = self.config
        if self.settings["model_type"] == "llama":
            if ".q_proj." in name:
                return _half_by_half(tensor, c.heads)
            if ".k_proj." in name:
                return _half_by_half(tensor, c.kv_heads)
        return tensor


def gguf_name(name: str) -> str:
    """The name in GGUF of a Hugging Face tensor."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_MODULES[module]}.{kind}"


def _half_by_half(tensor: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection, from GGUF's order to Hugging Face's.

    GGUF's llama rotates neighbouring rows of a head, Hugging Face rows that are half a head apart.
    """
    size = tensor.shape[0] // heads
    pairs = tensor.view(heads, size // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _settings(file: GGUFFile) -> dict[str, Any]:
    """The metadata as a `config.json`, whose reader checks it."""
    meta, where = file.metadata, file.path
    architecture = meta.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ModelError(
            f"architecture {short(architecture)}",
            where=where,
            remedy=f"silva reads GGUF files of {', '.join(ARCHITECTURES)}",
        )
    found = {ours: meta.get(f"{architecture}.{theirs}") for ours, theirs in _SIZES.items()}
    if _single(meta, f"{architecture}.expert_count", where):
        raise ModelError("a mixture of experts", where=where, remedy="silva reads dense models")
    heads, hidden = found["num_attention_heads"], found["hidden_size"]
    if found["head_dim"] is None and type(heads) is int and type(hidden) is int and heads > 0:
        found["head_dim"] = hidden // heads
    rotated, size = _single(meta, f"{architecture}.rope.dimension_count", where), found["head_dim"]
    if rotated is not None and (type(size) is not int or rotated != size):
        raise ModelError(f"rotates {short(rotated)} of a head's numbers", where=where)
    if _single(meta, f"{architecture}.attention.sliding_window", where):
        raise ModelError("has a sliding window", where=where, remedy="use its safetensors")
    embedding = file.tensors.get("token_embd.weight")
    return {
        **{name: value for name, value in found.items() if value is not None},
        "architectures": [f"{ARCHITECTURES[architecture]}ForCausalLM"],
        "model_type": architecture,
        "vocab_size": embedding.shape[0] if embedding is not None else None,
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": architecture != "qwen2" and "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        "rope_parameters": _rope(meta, architecture, where),
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end_tokens(meta),
    }


def end_tokens(meta: dict[str, Any]) -> list[Any]:
    """Tokens that end a text, a turn of a chat, or a message of it."""
    listed = [meta.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return list(dict.fromkeys(token for token in listed if type(token) is int))


def _single(meta: dict[str, Any], key: str, where: Path) -> Any:
    """A setting that is one value, None where there is none. Raises ModelError for a list."""
    value = meta.get(key)
    if isinstance(value, list | np.ndarray):
        raise ModelError(f"{key} is a list", where=where)
    return value


def _rope(meta: dict[str, Any], architecture: str, where: Path) -> dict[str, Any]:
    rope = {"rope_theta": meta.get(f"{architecture}.rope.freq_base", 10_000.0)}
    kind = _single(meta, f"{architecture}.rope.scaling.type", where)
    if kind in (None, "none"):
        return {**rope, "rope_type": "default"}
    factor = meta.get(f"{architecture}.rope.scaling.factor")
    return {**rope, "rope_type": kind, "factor": factor}


def _scaling(file: GGUFFile, config: LlamaConfig) -> dict[str, Any] | None:
    """The llama3 scaling that the file holds as a tensor of divisors, in Hugging Face's terms.

    Llama 3.1 and later differ in the factor alone, which is the largest divisor; whether the others
    follow from it is checked.
    """
    if FREQUENCIES not in file.tensors:
        return None
    if file.tensors[FREQUENCIES].shape != (config.head_size // 2,):
        raise ModelError(f"{FREQUENCIES} does not fit a head", where=file.path)
    divisors = file.read(FREQUENCIES)
    factor = float(divisors.max())
    plain = inverse_frequencies(config.rope, config.head_size).numpy()
    if not 1 <= factor <= 1e6 or float(divisors.min()) <= 0:
        raise ModelError(f"{FREQUENCIES} holds no divisors", where=file.path)
    rope = Rope(config.rope.theta, "llama3", factor)
    scaled = inverse_frequencies(rope, config.head_size).numpy()
    if config.rope.kind != "default" or not np.allclose(plain / divisors, scaled, rtol=1e-3):
        raise ModelError(
            f"{FREQUENCIES} scales positions in an unknown way",
            where=file.path,
            remedy="use the model's safetensors",
        )
    return {
        "rope_type": "llama3",
        "rope_theta": rope.theta,
        "factor": factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_context,
    }


def describe(path: Path) -> GGUFModel:
    """The model of a GGUF file. Raises ModelError."""
    return GGUFModel(GGUFFile(path))
