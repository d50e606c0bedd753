"""Small GGUF files of random models, written by the package `gguf`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from chat_cases import SMOLLM2
from language_cases import random_hf
from tokenizer_cases import byte_fallback, byte_level
from tokenizers import Tokenizer

KINDS = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
    "Q4_1": gguf.GGMLQuantizationType.Q4_1,
}
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 421}
SHAPE |= {"num_hidden_layers": 2}


def neighbours(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in the order of llama.cpp's converter."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


def write_gguf(
    path: Path,
    family: str = "llama",
    kind: str = "F32",
    *,
    tokenizer: str = "smollm",
    divisors: np.ndarray | None = None,
    **changes: Any,
) -> Any:
    """A file of a random model of `family`; returns the stock model, weights as the file has them.

    Matrices are of `kind`, vectors F32.
    """
    model = random_hf(family, **{**SHAPE, **changes})
    config, state = model.config, model.state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    architecture = config.model_type
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim if hasattr(config, "head_dim") else 16)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    add_vocabulary(writer, tokenizer)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    for name, tensor in state.items():
        values = tensor.numpy()
        if architecture == "llama" and ".q_proj." in name:
            values = neighbours(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = neighbours(values, config.num_key_value_heads)
        used = KINDS[kind] if values.ndim == 2 else KINDS["F32"]
        raw = gguf.quants.quantize(values, used)
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(theirs, raw, raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: str) -> None:
    """Byte-level for the name of a cut, or SentencePiece for "spm"."""
    made = byte_fallback() if tokenizer == "spm" else byte_level()
    tokens = vocabulary(made)
    tokens += [f"[PAD{n}]" for n in range(len(tokens), SHAPE["vocab_size"])]
    raw = json.loads(made.to_str())
    special = {t["content"]: 3 if t["special"] else 4 for t in raw["added_tokens"]}
    writer.add_token_list(tokens)
    writer.add_token_types([special.get(t, 1) for t in tokens])
    if tokenizer == "spm":
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(n) for n in range(len(tokens))])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(tokenizer)
        writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
        writer.add_add_bos_token(False)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(SMOLLM2)


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    return sorted(ids, key=ids.__getitem__)
