"""From a model's directory to one rank's side of it: `load_ranked`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from silva.experts.forming import FORM_S, check_ranks, form, room_for
from silva.experts.group import RankGroup
from silva.experts.meeting import Meeting
from silva.experts.ranked import RankedModel
from silva.experts.shape import GroupShape, Pass
from silva.experts.sizes import BufferSizes, Wire
from silva.experts.waiting import PATIENCE_S
from silva.models.deepseek_config import DeepseekConfig
from silva.models.deepseek_loader import Shelf, load_spread


@dataclass(frozen=True)
class Spread:
    """How experts are spread; the same for all ranks of a group."""

    ranks: int
    redundant: int = 1
    """Experts that a rank holds of each layer beside its share."""
    wire: Wire = "exact"
    local_batch: int = 64
    """Tokens that a rank sends in one round; more go in further rounds."""
    rebalance_s: float = 60.0
    """Seconds between two looks at the load of the experts; 0: none."""


def group_shape(config: DeepseekConfig, dtype: torch.dtype, spread: Spread) -> GroupShape:
    """Sizes of everything that ranks share. Raises ConfigError where experts do not divide."""
    check_ranks(config.experts, spread.ranks)
    last = config.layers + config.drafts
    layers = [n for n in range(last) if config.has_experts(n)]
    return GroupShape(
        BufferSizes(
            ranks=spread.ranks,
            local_batch=spread.local_batch,
            top_k=config.gate.top_k,
            slots=room_for(config.experts, spread.ranks, spread.redundant),
            hidden_size=config.hidden_size,
            item_bytes=dtype.itemsize,
            wire=spread.wire,
        ),
        {
            Pass.HIDDEN: tuple(n for n in layers if n < config.layers),
            Pass.DRAFT: tuple(n for n in layers if n >= config.layers),
        },
        config.experts,
        spread.rebalance_s,
    )


def load_ranked(
    folder: Path,
    rank: int,
    spread: Spread,
    meeting: Meeting,
    *,
    name: str = "",
    dtype: torch.dtype = torch.float32,
    news: Callable[[], None] = lambda: None,
    patience_s: float = PATIENCE_S,
    limit_s: float = FORM_S,
) -> RankedModel:
    """The model of a directory with the experts of `rank` alone, once its group is complete.

    `news`: see `RankGroup`; `limit_s`: see `form`. Raises ModelError, ConfigError and ServingError.
    """
    found: list[RankGroup] = []

    def joined(config: DeepseekConfig, shelf: Shelf) -> RankGroup:
        shape = group_shape(config, dtype, spread)
        waits = {"patience_s": patience_s, "limit_s": limit_s}
        found.append(form(shape, rank, meeting, shelf, news=news, **waits))
        return found[0]

    model = load_spread(folder, joined, name=name, dtype=dtype)
    return RankedModel(model, found[0])
