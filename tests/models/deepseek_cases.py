"""Tiny random DeepSeek-shaped models, as transformers writes them, and a plain memory of latents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from deepseek_tiny import TINY
from plain_latents import PlainLatents
from safetensors.torch import load_file, save_file

from silva.models.deepseek import Deepseek
from silva.models.latent import Form

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
    "original_max_position_embeddings": 16,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "v3": ("DeepseekV3", {"rope_parameters": YARN}),
    "v3 tied, biases, halves": (
        "DeepseekV3",
        {"tie_word_embeddings": True, "attention_bias": True, "rope_interleave": False},
    ),
    "v3 yarn without mscale": (
        "DeepseekV3",
        {
            "rope_parameters": {**YARN, "mscale": 0.0, "mscale_all_dim": 0.0},
            "norm_topk_prob": False,
        },
    ),
    "v3 dense only": ("DeepseekV3", {"first_k_dense_replace": 3}),
    "moonlight": (
        "DeepseekV3",
        {"n_group": 1, "topk_group": 1, "q_lora_rank": None, "n_shared_experts": 2},
    ),
    "v2": (
        "DeepseekV2",
        {
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 3.0,
            "rope_parameters": YARN,
        },
    ),
    "v2 lite": (
        "DeepseekV2",
        {"n_group": None, "topk_group": None, "q_lora_rank": None, "n_shared_experts": 2},
    ),
}


def random_hf(shape: str = "v3", seed: int = 0, **changes: Any) -> Any:
    """A stock transformers model with weights large enough for differences to show."""
    kind, settings = SHAPES[shape]
    config = getattr(transformers, f"{kind}Config")(**{**TINY, **settings, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    randomise(model)
    return model


def randomise(model: torch.nn.Module) -> None:
    """Random weights, and random correction biases, which transformers starts at zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.15)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)


def save_hf(folder: Path, shape: str = "v3", **changes: Any) -> Path:
    """A directory with such a model."""
    random_hf(shape, **changes).save_pretrained(folder)
    return folder


def logits_in_steps(
    model: Deepseek,
    sequences: dict[str, list[int]],
    steps: Sequence[dict[str, int]],
    form: Form = "auto",
) -> dict[str, torch.Tensor]:
    """Logits of all positions; each step computes so many tokens of the sequences it names."""
    memory, done = PlainLatents(form), dict.fromkeys(sequences, 0)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in sequences}
    for step in steps:
        tokens: list[int] = []
        positions: list[int] = []
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


def tokens_of(length: int, seed: int = 1) -> list[int]:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 89, (length,), generator=source).tolist()


def save_drafting(folder: Path, **changes: Any) -> Any:
    """A directory whose draft module is often right, and the stock model, which knows none of it.

    Embeddings of unit size and a module with the weights of the only layer: what it computes from
    the next token is what the model will, but for the first token of all, which it does not see.
    """
    one = {"num_hidden_layers": 1, "first_k_dense_replace": 0, **changes}
    stock = random_hf("v3", **one)
    with torch.no_grad():
        table = stock.model.embed_tokens.weight
        table /= table.pow(2).mean(-1, keepdim=True).sqrt()
    stock.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    hidden = stock.config.hidden_size
    first, second = "model.layers.0.", "model.layers.1."
    copies = {n.replace(first, second): t.clone() for n, t in tensors.items() if first in n}
    tensors |= copies
    tensors[f"{second}eh_proj.weight"] = torch.eye(hidden, 2 * hidden)
    tensors |= {f"{second}{norm}.weight": torch.ones(hidden) for norm in ("enorm", "hnorm")}
    tensors[f"{second}shared_head.norm.weight"] = tensors["model.norm.weight"].clone()
    path.unlink()
    save_file(tensors, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    return stock
