"""Hugging Face directories of language models: `config.json` and safetensors, mapped.

A directory is input from outside: see `loader`. Weights stay in the files, and all processes that
load a directory share its pages, so files must be replaced, never changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from silva.errors import ModelError
from silva.models import digests, llama_tensors
from silva.models.language import LanguageModel
from silva.models.llama import Llama
from silva.models.llama_config import LlamaConfig, read_config
from silva.models.mapped import MappedFile
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


class Source:
    """The tensors of a directory, compared with its configuration; nothing is read or copied yet."""

    def __init__(self, folder: Path, config: LlamaConfig) -> None:
        """Raises ModelError for files and shapes that are not as `config` says."""
        self.paths = weight_files(folder)
        self._home: dict[str, MappedFile] = {}
        for path in self.paths:
            file = MappedFile(path)
            for name in file.entries:
                if llama_tensors.is_ignored(name, config):
                    continue
                if name in self._home:
                    raise ModelError(f"tensor {name[:100]} is there twice", where=path)
                self._home[name] = file
        found = {name: file.entries[name].shape for name, file in self._home.items()}
        compare_shapes(found, llama_tensors.shapes(config), folder)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The types that the weights are stored as."""
        return {file.entries[name].dtype for name, file in self._home.items()}

    def tensor(self, name: str) -> Tensor:
        """A tensor by Hugging Face's name, a view of its file."""
        return self._home[name].tensor(name)

    def joined(self, names: Sequence[str]) -> Tensor | None:
        """Several tensors as one view, where they lie one below the other in one file."""
        files = {self._home[name].path: self._home[name] for name in names}
        return next(iter(files.values())).joined(names) if len(files) == 1 else None

    def digest(self) -> str:
        """Of the weights' content, read in full unless it is remembered."""
        known = digests.remembered(self.paths)
        if known is None:
            known = digests.weights_digest(
                {name: digests.tensor_digest(name, self.tensor(name)) for name in self._home}
            )
            digests.remember(self.paths, known)
        return known
