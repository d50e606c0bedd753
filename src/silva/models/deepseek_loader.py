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
from silva.models.deepseek_config import read_config
from silva.models.deepseek_source import DeepseekSource, Keeps
from silva.models.experts import ExpertExchange, ExpertWeights, LocalExperts

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
