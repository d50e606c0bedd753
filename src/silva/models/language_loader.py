"""Hugging Face directories of language models: `config.json` and safetensors, mapped.

A directory is input from outside: see `loader`. Weights stay in the files, and all processes that
load a directory share its pages, so files must be replaced, never changed in place.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from silva.models import digests, llama_tensors
from silva.models.language import LanguageModel
from silva.models.llama import Llama
from silva.models.llama_config import LlamaConfig, read_config
from silva.models.mapped import MappedFile
from silva.models.mapped_tensors import MappedTensors
from silva.models.weight_files import compare_shapes, weight_files


def load_language_model(
    folder: Path, *, name: str = "", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """The model of a directory, frozen, its weights mapped.

    `name` is the directory's unless given. Weights that are not stored as `dtype` are converted,
    which copies them into this process; `library.resolve` gives a directory that needs no copy.
    The first time, all bytes are read for the digest. Raises ModelError naming the file.
    """
    config = read_config(folder)
    source = Source(folder, config)
    weights = llama_tensors.assemble(
        config, lambda n: source.tensor(n).to(dtype), lambda n: _to(source.joined(n), dtype)
    )
    digest = digests.model_digest(config.digest(), source.digest())
    return Llama(config, weights, name=name or folder.resolve().name, digest=digest)


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


class Source(MappedTensors):
    """The tensors of a directory, compared with its configuration; nothing is read or copied yet."""

    def __init__(self, folder: Path, config: LlamaConfig) -> None:
        """Raises ModelError for files and shapes that are not as `config` says."""
        files = [MappedFile(path) for path in weight_files(folder)]
        super().__init__(files, lambda name: llama_tensors.is_ignored(name, config))
        compare_shapes(self.shapes, llama_tensors.shapes(config), folder)
