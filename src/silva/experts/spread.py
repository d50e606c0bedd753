"""From a model's directory to one rank's side of it: `load_ranked`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from silva.experts.company import GroupCompany
from silva.experts.forming import FORM_S, check_ranks, form, room_for
from silva.experts.group import RankGroup
from silva.experts.meeting import Meeting
from silva.experts.memory import OwnMemory
from silva.experts.ranked import RankedModel
from silva.experts.shape import GroupShape, Overlap, Pass
from silva.experts.shared_trade import SharedTrade, TradeSizes
from silva.experts.sizes import BufferSizes, Wire
from silva.experts.stages import StagedModel, check_heads, gathered
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
    overlap: Overlap = "auto"
    """Of steps that are a rank's own; what ranks share is never split."""
    staged: bool = False
    """Whether ranks share steps, by tokens and heads (silva.experts.stages), or have steps of their
    own."""


def group_shape(config: DeepseekConfig, dtype: torch.dtype, spread: Spread) -> GroupShape:
    """Sizes of everything that ranks share. Raises ConfigError where experts do not divide, or a rank
    that is to have heads of its own has none.
    """
    check_ranks(config.experts, spread.ranks)
    if spread.staged:
        check_heads(config, spread.ranks)
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
        "off" if spread.staged else spread.overlap,
    )


def trade_sizes(config: DeepseekConfig, dtype: torch.dtype, spread: Spread) -> TradeSizes:
    """How large the memory of a trade is: latents of the local batch go in one round."""
    return TradeSizes(spread.ranks, spread.local_batch * gathered(config) * dtype.itemsize)


def load_ranked(
    folder: Path,
    rank: int,
    spread: Spread,
    meeting: Meeting,
    *,
    name: str = "",
    dtype: torch.dtype = torch.float32,
    address: str = "",
    news: Callable[[], None] = lambda: None,
    patience_s: float = PATIENCE_S,
    limit_s: float = FORM_S,
) -> RankedModel:
    """The model of a directory with the experts of `rank` alone, once its group is complete.

    `address`: see `Card`; `news`: see `RankGroup`; `limit_s`: see `form`. Raises ModelError,
    ConfigError and ServingError.
    """
    found: list[RankGroup] = []
    memory: list[OwnMemory] = []

    def joined(config: DeepseekConfig, shelf: Shelf) -> RankGroup:
        shape = group_shape(config, dtype, spread)
        waits = {"patience_s": patience_s, "limit_s": limit_s}
        if spread.staged:
            memory.append(OwnMemory(rank, trade_sizes(config, dtype, spread).total))
        trade = memory[0].member if memory else None
        found.append(
            form(shape, rank, meeting, shelf, trade=trade, address=address, news=news, **waits)
        )
        return found[0]

    model = load_spread(folder, joined, name=name, dtype=dtype)
    if not memory:
        return RankedModel(model, found[0])
    company = GroupCompany(found[0], memory[0].member)
    sizes = trade_sizes(model.config, dtype, spread)
    trade = SharedTrade(sizes, memory[0], company, patience_s=patience_s)
    return RankedModel(StagedModel(model, trade), found[0])
