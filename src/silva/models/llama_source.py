"""The tensors of a Llama-shaped model in Hugging Face files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from silva.models import llama_tensors
from silva.models.llama_config import LlamaConfig
from silva.models.mapped import MappedFile, Placed
from silva.models.mapped_tensors import MappedTensors
from silva.models.weight_files import compare_shapes, weight_files


class LlamaSource(MappedTensors):
    """The tensors of a directory, compared with its configuration; nothing is read or copied yet."""

    def __init__(self, folder: Path, config: LlamaConfig) -> None:
        """Raises ModelError for files and shapes that are not as `config` says."""
        self.config = config
        files = [MappedFile(path) for path in weight_files(folder)]
        super().__init__(files, lambda name: llama_tensors.is_ignored(name, config))
        compare_shapes(self.shapes, llama_tensors.shapes(config), folder)

    def is_ready(self, dtype: torch.dtype) -> bool:
        """Whether a model of type `dtype` is mapped as it lies."""
        return self.dtypes == {dtype}

    def placed(self, dtype: torch.dtype) -> list[Placed]:
        """The tensors of a file for `dtype`; what is one matrix in the model is one in it."""
        return [Placed(n, s, dtype) for n, s in llama_tensors.shapes(self.config).items()]

    def settings(self) -> dict[str, Any]:
        """See `Checkpoint`."""
        return {}

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor as `dtype`: a view of its file if it is stored so."""
        return self.tensor(name).to(dtype)
