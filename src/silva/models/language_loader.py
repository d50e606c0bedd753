"""Hugging Face directories of language models: `config.json` and safetensors, mapped.

A directory is input from outside: see `loader`. Weights stay in the files, and all processes that
load a directory share its pages, so files must be replaced, never changed in place.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from silva.models import digests, llama_tensors
from silva.models.deepseek_config import DeepseekConfig
from silva.models.deepseek_loader import load_deepseek
from silva.models.language import LanguageModel
from silva.models.language_config import read_language_config
from silva.models.llama import Llama
from silva.models.llama_config import LlamaConfig
from silva.models.llama_source import LlamaSource


def load_language_model(
    folder: Path, *, name: str = "", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """The model of a directory, frozen, its weights mapped.

    `name` is the directory's unless given. Weights that are not stored as `dtype` are converted,
    which copies them into this process; `library.resolve` gives a directory that needs no copy.
    The first time, all bytes are read for the digest. Raises ModelError naming the file.
    """
    config = read_language_config(folder)
    if isinstance(config, DeepseekConfig):
        return load_deepseek(folder, name=name, dtype=dtype)
    return _llama(folder, config, name or folder.resolve().name, dtype)


def _llama(folder: Path, config: LlamaConfig, name: str, dtype: torch.dtype) -> Llama:
    source = LlamaSource(folder, config)
    weights = llama_tensors.assemble(
        config, lambda n: source.read(n, dtype), lambda n: _to(source.joined(n), dtype)
    )
    digest = digests.model_digest(config.digest(), source.digest())
    return Llama(config, weights, name=name, digest=digest)


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)
