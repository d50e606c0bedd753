"""The tensors of a language model's directory, of any family, as loading and conversion see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from silva.models.deepseek_config import DeepseekConfig
from silva.models.deepseek_source import DeepseekSource
from silva.models.language import LanguageConfig
from silva.models.language_config import read_language_config
from silva.models.llama_source import LlamaSource
from silva.models.mapped import Placed


class Checkpoint(Protocol):
    """Files that were compared with their configuration; nothing is read or copied yet."""

    @property
    def config(self) -> LanguageConfig:
        """As these files have it: without draft modules where they bring none."""
        ...

    def is_ready(self, dtype: torch.dtype) -> bool:
        """Whether a model of type `dtype` is mapped as it lies, without a copy in each process."""
        ...

    def placed(self, dtype: torch.dtype) -> list[Placed]:
        """The tensors that a file for `dtype` holds, in the order in which silva writes them."""
        ...

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor as a model of type `dtype` uses it: a view of its file if it is stored so."""
        ...

    def settings(self) -> dict[str, Any]:
        """Fields of `config.json` that are others after a conversion; None: none any more."""
        ...

    def digest(self) -> str:
        """Of the tensors' content, read in full unless it is remembered. Raises ModelError."""
        ...


def open_checkpoint(folder: Path) -> Checkpoint:
    """The tensors of a directory. Raises ModelError naming the file."""
    config = read_language_config(folder)
    if isinstance(config, DeepseekConfig):
        return DeepseekSource(folder, config)
    return LlamaSource(folder, config)
