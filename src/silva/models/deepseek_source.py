"""The tensors of a DeepSeek-shaped model in Hugging Face files, FP8 ones among them.

Files are mapped and compared with the configuration in full before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from silva.errors import ModelError
from silva.models import deepseek_tensors
from silva.models.deepseek_config import DeepseekConfig
from silva.models.experts import ExpertWeights
from silva.models.fp8 import FP8, SCALE, dequantise, scale_shape
from silva.models.mapped import MappedFile, Placed
from silva.models.mapped_tensors import MappedTensors
from silva.models.weight_files import compare_shapes, weight_files

Keeps = Callable[[int, int], bool]
"""Whether this rank keeps an expert: (layer, expert)."""


class DeepseekSource(MappedTensors):
    """The tensors of a directory, compared with its configuration; nothing is read or copied yet."""

    def __init__(self, folder: Path, config: DeepseekConfig) -> None:
        """Raises ModelError for files and shapes that are not as `config` says.

        `config` here ends up without draft modules where the files have none.
        """
        files = [MappedFile(path) for path in weight_files(folder)]
        draft = deepseek_tensors.draft_layer(config)
        if not any(name.startswith(draft) for file in files for name in file.entries):
            config = replace(config, drafts=0)
        self.config = config
        super().__init__(
            files, lambda name: deepseek_tensors.is_ignored(name.removesuffix(SCALE), config)
        )
        compare_shapes(self.shapes, self._expected(folder), folder)

    def _expected(self, folder: Path) -> dict[str, tuple[int, ...]]:
        """All shapes, with scales for the weights that are FP8 in these files."""
        shapes = deepseek_tensors.shapes(self.config)
        scaled = [n for n in shapes if n in self and self.dtype(n) == FP8]
        block = self.config.block
        for name in scaled:
            if block is None or len(shapes[name]) != 2:
                raise ModelError(
                    f"{name} is FP8, but config.json says nothing of its blocks",
                    where=folder,
                    remedy="weights and config.json must come from the same model",
                )
            shapes[name + SCALE] = scale_shape(shapes[name], block)
        return shapes

    def is_ready(self, dtype: torch.dtype) -> bool:
        """Whether a model of type `dtype` is mapped as it lies, all its experts too."""
        if any(self.dtype(p.name) != p.dtype for p in self.placed(dtype)):
            return False
        every = tuple(range(self.config.experts))
        layers = range(self.config.layers + self.config.drafts)
        groups = [
            deepseek_tensors.expert_names(n, every) for n in layers if self.config.has_experts(n)
        ]
        return all(self.joined(g.gate_up) is not None is not self.joined(g.down) for g in groups)

    def placed(self, dtype: torch.dtype) -> list[Placed]:
        """The tensors of a file for `dtype`: experts of a layer one after the other, no FP8."""
        shapes = deepseek_tensors.shapes(self.config)
        return [Placed(n, s, deepseek_tensors.type_of(n, dtype)) for n, s in shapes.items()]

    def settings(self) -> dict[str, Any]:
        """See `Checkpoint`."""
        return {"num_nextn_predict_layers": self.config.drafts, "quantization_config": None}

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor of a model of type `dtype`: a view of its file if it is stored so."""
        raw, dtype = self.tensor(name), deepseek_tensors.type_of(name, dtype)
        if raw.dtype != FP8 or self.config.block is None:
            return raw.to(dtype)
        return dequantise(raw, self.tensor(name + SCALE), self.config.block, dtype)

    def experts(self, layer: int, keeps: Keeps, dtype: torch.dtype) -> ExpertWeights:
        """Those experts of a layer that are kept."""
        ids = tuple(e for e in range(self.config.experts) if keeps(layer, e))
        names = deepseek_tensors.expert_names(layer, ids)
        inner, hidden = self.config.expert_size, self.config.hidden_size
        gate_up = self._stacked(names.gate_up, (inner, hidden), dtype)
        down = self._stacked(names.down, (hidden, inner), dtype)
        kept = len(ids)
        return ExpertWeights(
            ids, gate_up.view(kept, 2 * inner, hidden), down.view(kept, hidden, inner)
        )

    def _stacked(self, names: Sequence[str], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Matrices one below the other: one view where they lie so in one file as `dtype`."""
        if all(self.dtype(name) == dtype for name in names):
            joined = self.joined(names)
            if joined is not None:
                return joined
        out = torch.empty(len(names) * shape[0], shape[1], dtype=dtype)
        for n, name in enumerate(names):
            out[n * shape[0] : (n + 1) * shape[0]] = self.read(name, dtype)
        return out
