"""A prompt computed by several ranks together: attention in stages (arXiv 2506.12708, section 4.3).

    tokens    each rank has an even part of the step's tokens, wherever requests begin and end: input,
              projections down to latents
    heads     of all tokens, each rank some heads: latents are gathered, nothing else; queries, keys and
              values are made of them, and attention is computed in its plain form or absorbed
    tokens    what heads say goes back to the tokens' ranks: output projection, gate, experts

No rank waits for one with longer prompts, and a single prompt keeps all of them busy. What every
other rank is sent of a token in a layer is `gathered` values: 1,536 + 576 in DeepSeek-V3.

Since all latents come to all ranks, each of them writes all of the step to its own memory: any
prefix can be continued by any of them, and by fewer when one has died.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from silva.errors import ConfigError
from silva.experts.trade import Goods, Sharers, Step, Trade, even, gather, to_rows
from silva.models.deepseek import AttentionWeights, Deepseek, HeadStage, linear, queries
from silva.models.deepseek_config import DeepseekConfig
from silva.models.latent import LatentAttend
from silva.models.llama import Linear
from silva.models.yarn import Rotation


def gathered(config: DeepseekConfig) -> int:
    """Values of a token that every other rank is sent in a layer: all that heads are made from.

    A model without a latent of queries sends the hidden state, which they are made from.
    """
    return (config.q_rank or config.hidden_size) + config.kept.size


def check_heads(config: DeepseekConfig, ranks: int) -> None:
    """Raise ConfigError where so many ranks cannot have heads of their own."""
    if ranks > config.heads:
        what = f"{ranks} ranks for {config.heads} heads"
        remedy = f"use at most {config.heads}"
        raise ConfigError(what, where="Spread.ranks", remedy=remedy)


class StagedModel:
    """A `DraftingModel` (silva.models.language), one rank's side of it: attention in stages.

    All ranks are called with the same steps in the same order, each with an `attend` of its own; all
    return the same. A rank that has fallen behind computes what the others have without them, while
    they wait for it and lend it their experts.
    """

    def __init__(self, model: Deepseek, trade: Trade) -> None:
        """`model` reaches its experts through an exchange of the same ranks, or has all of them."""
        self.model, self.trade = model, trade
        self.steps = 0
        """That were computed so far; who joins a running group is told by the others."""

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def digest(self) -> str:
        return self.model.digest

    @property
    def config(self) -> DeepseekConfig:
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def hidden(self, tokens: Tensor, positions: Tensor, attend: LatentAttend) -> Tensor:
        """See `LanguageModel`. Raises ConfigError where more ranks share a step than it has heads, and
        what the trade and the exchange raise.
        """

        def compute(mine: slice, rotation: Rotation, heads: HeadStage) -> Tensor:
            return self.model.hidden_by(tokens[mine], rotation, heads)

        return self._share(tokens, positions, attend, compute)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `LanguageModel`."""
        return self.model.logits(hidden)

    def draft(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, attend: LatentAttend
    ) -> Tensor:
        """See `DraftingModel`."""

        def compute(mine: slice, rotation: Rotation, heads: HeadStage) -> Tensor:
            return self.model.draft_by(hidden[mine], tokens[mine], rotation, heads)

        return self._share(tokens, positions, attend, compute)

    def _share(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: LatentAttend,
        compute: Callable[[slice, Rotation, HeadStage], Tensor],
    ) -> Tensor:
        """All rows of what is computed of each sharer's own tokens."""
        sharers = self.trade.begin(Step(self.steps, _checksum(tokens, positions)))
        check_heads(self.config, sharers.ranks)
        rows = even(len(tokens), sharers.ranks)
        mine, rotation = _part(rows, sharers.place), self.model.rotation(positions)
        heads = _SharedHeads(self.config, rotation, attend, self.trade, sharers, rows)
        made = compute(mine, (rotation[0][mine], rotation[1][mine]), heads)
        whole = gather(self.trade, Goods.HIDDEN, made, rows)
        self.steps += 1
        return whole


@dataclass(frozen=True)
class _SharedHeads:
    """A `HeadStage` of a step whose tokens and heads are spread over the sharers."""

    config: DeepseekConfig
    rotation: Rotation
    """Of all tokens of the step."""
    attend: LatentAttend
    trade: Trade
    sharers: Sharers
    rows: Sequence[int]
    """Tokens of each sharer."""

    def __call__(self, layer: int, weights: AttentionWeights, q: Tensor, latent: Tensor) -> Tensor:
        place, heads = self.sharers.place, even(self.config.heads, self.sharers.ranks)
        sizes = [q.shape[1], latent.shape[1]]
        both = gather(self.trade, Goods.LATENTS, torch.cat((q, latent), dim=1), self.rows)
        q, latent = both.split(sizes, dim=1)
        mine = _part(heads, place)
        made = queries(linear(q, self._of(weights.q_up, mine)), self.rotation, self.config)
        of_mine = replace(weights.heads, up=weights.heads.up[mine])
        said = self.attend(layer, made, latent, of_mine).flatten(1)
        columns = [count * self.config.value_size for count in heads]
        return to_rows(self.trade, Goods.HEADS, said, self.rows, columns, place)

    def _of(self, up: Linear, heads: slice) -> Linear:
        """The rows of some heads, views of the weights of all."""
        size = self.config.nope_size + self.config.rope_size
        begin, end, found = heads.start * size, heads.stop * size, []
        for weight, bias in up:
            here = slice(max(begin, 0), max(end, 0))
            begin, end = begin - len(weight), end - len(weight)
            found.append((weight[here], None if bias is None else bias[here]))
        return tuple(found)


def _part(counts: Sequence[int], place: int) -> slice:
    """The part at `place` of what is cut so."""
    end = list(accumulate(counts))[place]
    return slice(end - counts[place], end)


def _checksum(tokens: Tensor, positions: Tensor) -> int:
    return zlib.crc32(torch.cat((tokens, positions)).numpy().tobytes())
