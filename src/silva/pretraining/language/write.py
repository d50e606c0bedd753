"""A trained language model as a Hugging Face directory, with what was measured of it beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from silva.models import deepseek_tensors
from silva.models.config_fields import CONFIG, GENERATION
from silva.models.mapped import Placed, write_mapped
from silva.models.weight_files import WEIGHTS
from silva.pretraining.language.config import BEGIN, END, LanguageRecipe
from silva.pretraining.language.model import unstacked
from silva.pretraining.language.train import Trained

DTYPE = torch.bfloat16
"""Of the weights as written, but for what `deepseek_tensors.type_of` keeps exact."""
RECORD = "training.json"


def write_model(out: Path, config: LanguageRecipe, trained: Trained, tokenizer: Tokenizer) -> None:
    """Configuration, weights and tokenizer into `out`; the weights lie in the order of silva's own.

    The weights come last, under their own name at once: a directory that has them is whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    described = config.model.as_config() | {"dtype": str(DTYPE).removeprefix("torch.")}
    write_json(out / CONFIG, described)
    write_json(out / GENERATION, {"bos_token_id": 0, "eos_token_id": 1})
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "model_max_length": config.model.context,
    }
    write_json(out / "tokenizer_config.json", about)
    tokenizer.save(str(out / "tokenizer.json"))
    tensors = unstacked(trained.parameters)
    placed = [
        Placed(name, shape, deepseek_tensors.type_of(name, DTYPE))
        for name, shape in deepseek_tensors.shapes(trained.shape).items()
    ]
    scratch = out / f".{WEIGHTS}.tmp"
    with scratch.open("wb") as file:
        write_mapped(file, placed, tensors.__getitem__)
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
