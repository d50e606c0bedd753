"""A trained language model as a Hugging Face directory, with what was measured of it beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from silva.pretraining.language.config import BEGIN, END, LanguageRecipe
from silva.pretraining.language.model import BIAS, unstacked

WEIGHTS, RECORD = "model.safetensors", "training.json"


def write_model(
    out: Path,
    config: LanguageRecipe,
    parameters: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Configuration, weights as `dtype` (gates' biases as float32) and tokenizer into `out`.

    The weights come last, under their own name at once: a directory that has them is whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    described = config.model.as_config() | {"dtype": str(dtype).removeprefix("torch.")}
    write_json(out / "config.json", described)
    write_json(out / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "model_max_length": config.model.context,
    }
    write_json(out / "tokenizer_config.json", about)
    tokenizer.save(str(out / "tokenizer.json"))
    tensors = {
        name: tensor.to(torch.float32 if name.endswith(BIAS) else dtype).contiguous()
        for name, tensor in unstacked(parameters).items()
    }
    scratch = out / f".{WEIGHTS}.tmp"
    save_file(tensors, scratch, {"format": "pt"})
    scratch.replace(out / WEIGHTS)


def write_record(out: Path, config: LanguageRecipe, measured: Mapping[str, Any]) -> None:
    """Recipe and measurements of the run, as `training.json`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECORD, {"config": asdict(config), **measured})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One file, replaced as a whole."""
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
