"""Hugging Face directories of DeepSeek-shaped models, FP8 ones among them, for one rank.

Files are mapped and compared with the configuration in full before anything is allocated. Then one
layer after the other is read: a rank keeps the experts that it is asked to keep and never holds
more than these, the rest of the model and one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from silva.errors import ModelError
from silva.models import deepseek_tensors, digests
from silva.models.deepseek import Deepseek
from silva.models.deepseek_config import DeepseekConfig, read_config
from silva.models.experts import ExpertExchange, ExpertWeights, LocalExperts
from silva.models.fp8 import FP8, SCALE, dequantise, scale_shape
from silva.models.mapped import MappedFile
from silva.models.mapped_tensors import MappedTensors
from silva.models.weight_files import compare_shapes, weight_files

Keeps = Callable[[int, int], bool]
"""Whether this rank keeps an expert: (layer, expert)."""
MakeExchange = Callable[[Mapping[int, ExpertWeights]], ExpertExchange]


def load_deepseek(
    folder: Path,
    *,
    name: str = "",
    dtype: torch.dtype = torch.float32,
    keeps: Keeps = lambda layer, expert: True,
    exchange: MakeExchange = LocalExperts,
) -> Deepseek:
    """The model of a directory, frozen. `name` is the directory's unless given.

    `exchange` is given the experts that are kept, by layer, those of a draft module after the
    model's. Weights that are stored as `dtype` stay in the files, which all processes share;
    others, and experts that do not lie one after the other in a file, are copied. The first time,
    all bytes are read for the digest, which is that of the whole model. Raises ModelError.
    """
    source = DeepseekSource(folder, read_config(folder))
    weights = deepseek_tensors.assemble(source.config, lambda n: source.read(n, dtype))
    experts = {
        layer: source.experts(layer, keeps, dtype)
        for layer in range(source.config.layers + source.config.drafts)
        if source.config.has_experts(layer)
    }
    digest = digests.model_digest(source.config.digest(), source.digest())
    return Deepseek(
        source.config,
        weights,
        exchange(experts),
        name=name or folder.resolve().name,
        digest=digest,
    )


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

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor as `dtype`: a view of its file if it is stored so."""
        raw = self.tensor(name)
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
        return ExpertWeights(ids, gate_up.view(-1, 2 * inner, hidden), down.view(-1, hidden, inner))

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
