"""DeepSeek-shaped models from Hugging Face directories, for one rank.

One layer after the other is read: a rank keeps the experts that it is asked to keep and never holds
more than these, the rest of the model and one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from silva.models import deepseek_tensors, digests
from silva.models.deepseek import Deepseek
from silva.models.deepseek_config import DeepseekConfig, read_config
from silva.models.deepseek_source import DeepseekSource, Keeps
from silva.models.experts import ExpertExchange, ExpertWeights, LocalExperts

MakeExchange = Callable[[Mapping[int, ExpertWeights]], ExpertExchange]

Shelf = Callable[[int, tuple[int, ...]], ExpertWeights]
"""Gives some experts of a layer, ascending. For any thread, as long as the files are there."""


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

    def kept(config: DeepseekConfig, shelf: Shelf) -> ExpertExchange:
        ids = {
            layer: tuple(e for e in range(config.experts) if keeps(layer, e))
            for layer in range(config.layers + config.drafts)
            if config.has_experts(layer)
        }
        return exchange({layer: shelf(layer, some) for layer, some in ids.items()})

    return load_spread(folder, kept, name=name, dtype=dtype)


def load_spread(
    folder: Path,
    exchange: Callable[[DeepseekConfig, Shelf], ExpertExchange],
    *,
    name: str = "",
    dtype: torch.dtype = torch.float32,
) -> Deepseek:
    """The same for an exchange that takes experts from the shelf itself, now and later."""
    source = DeepseekSource(folder, read_config(folder))
    weights = deepseek_tensors.assemble(source.config, lambda n: source.read(n, dtype))
    digest = digests.model_digest(source.config.digest(), source.digest())

    def shelf(layer: int, ids: tuple[int, ...]) -> ExpertWeights:
        wanted = frozenset(ids)
        return source.experts(layer, lambda _, expert: expert in wanted, dtype)

    return Deepseek(
        source.config,
        weights,
        exchange(source.config, shelf),
        name=name or folder.resolve().name,
        digest=digest,
    )
