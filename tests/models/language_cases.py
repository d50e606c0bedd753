"""Tiny random language models of every family, as transformers writes them, and a plain KV memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from silva.models.attention import causal
from silva.models.language import LanguageModel

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied, all heads keys": (
        "Llama",
        {"tie_word_embeddings": True, "num_key_value_heads": 6},
    ),
    "llama biases, odd head": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3, "eos_token_id": [3, 5]}),
    "llama linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}},
    ),
    "llama dynamic": (
        "Llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4}},
    ),
    "smollm2": (
        "Llama",
        {"tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral window": ("Mistral", {"sliding_window": 24}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2 window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3 biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
}


def random_hf(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A stock transformers model with weights large enough for differences to show."""
    kind, shape = FAMILIES[family]
    settings = {**TINY, **shape, **changes}
    config = getattr(transformers, f"{kind}Config")(**settings)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.15)
    return model


def save_hf(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A directory with such a model."""
    random_hf(family, **changes).save_pretrained(folder)
    return folder


class PlainKV:
    """An `Attend` over several sequences of one layer list: keys and values in growing tensors.

    `step` says before each step which tokens belong to which sequence.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], torch.Tensor] = {}
        self._parts: list[tuple[str, int]] = []

    def step(self, parts: Sequence[tuple[str, int]]) -> None:
        """Sequence and number of tokens, in the order in which the step holds them."""
        self._parts = list(parts)

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        out, start = [], 0
        for sequence, length in self._parts:
            here = slice(start, start + length)
            new = torch.stack([k[here], v[here]])
            old = self._kept.get((sequence, layer))
            kept = new if old is None else torch.cat([old, new], dim=1)
            self._kept[sequence, layer] = kept
            out.append(causal(q[here], kept[0], kept[1]))
            start += length
        return torch.cat(out)


def logits_in_steps(
    model: LanguageModel, sequences: dict[str, list[int]], steps: Sequence[dict[str, int]]
) -> dict[str, torch.Tensor]:
    """Logits of all positions; each step computes so many tokens of the sequences it names."""
    memory, done = PlainKV(), dict.fromkeys(sequences, 0)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in sequences}
    for step in steps:
        tokens, positions = [], []
        for name, length in step.items():
            tokens += sequences[name][done[name] : done[name] + length]
            positions += range(done[name], done[name] + length)
        memory.step(list(step.items()))
        with torch.inference_mode():
            hidden = model.hidden(torch.tensor(tokens), torch.tensor(positions), memory)
            pieces = model.logits(hidden).split(list(step.values()))
        for name, piece in zip(step, pieces, strict=True):
            found[name].append(piece)
            done[name] += len(piece)
    return {name: torch.cat(pieces) for name, pieces in found.items()}
