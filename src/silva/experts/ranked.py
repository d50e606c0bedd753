"""A language model whose experts are spread over a group of ranks: one rank's side of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from silva.experts.exchange import OutOfStepError
from silva.experts.group import RankGroup
from silva.experts.overlap import overlapped
from silva.experts.shape import Pass
from silva.models.deepseek import Deepseek, Flow, WholeHeads
from silva.models.language import DraftingModel, LanguageConfig
from silva.models.latent import DivisibleLatents, Halves, LatentAttend


class _Work(NamedTuple):
    """What a pass is to compute."""

    whole: Callable[[], Tensor]
    half: Callable[[Deepseek, slice, LatentAttend], Flow]
    """Some of its tokens before the first layer, with what attends for them."""
    tokens: int


class RankedModel:
    """A `DraftingModel` (silva.models.language) that votes before each pass.

    A pass in which a rank died, and some answers with it, is computed again: what it wrote to the
    memory of latents is written anew.
    """

    def __init__(self, model: DraftingModel, group: RankGroup) -> None:
        """`model` reaches its experts through `group`."""
        self.model, self.group = model, group
        self.repeated = 0
        """Passes that were computed again."""

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def digest(self) -> str:
        return self.model.digest

    @property
    def config(self) -> LanguageConfig:
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """See `LanguageModel`."""

        def half(model: Deepseek, mine: slice, attend: LatentAttend) -> Flow:
            rotation = model.rotation(positions[mine])
            return model.flow(tokens[mine], rotation, WholeHeads(model, rotation, attend))

        whole = partial(self.model.hidden, tokens, positions, attend)
        return self._pass(Pass.HIDDEN, _Work(whole, half, len(tokens)), attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `LanguageModel`."""
        return self.model.logits(hidden)

    def draft(self, hidden: Tensor, tokens: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """See `DraftingModel`."""

        def half(model: Deepseek, mine: slice, attend: LatentAttend) -> Flow:
            rotation = model.rotation(positions[mine])
            heads = WholeHeads(model, rotation, attend)
            return model.draft_flow(hidden[mine], tokens[mine], rotation, heads)

        whole = partial(self.model.draft, hidden, tokens, positions, attend)
        return self._pass(Pass.DRAFT, _Work(whole, half, len(tokens)), attend)

    def _pass(self, wanted: Pass, work: _Work, attend: Any) -> Tensor:
        """Compute until all ranks agree on what that is and all answers are there."""
        halves = attend.halves() if self._divides(attend) else None
        group = self.group
        while True:
            try:
                with group.taking_part():
                    kind = group.turn(wanted, work.tokens, halves=halves is not None)
                    if kind != wanted:
                        group.follow(kind)
                        continue
                    group.exchange.begin_step()
                    split = group.splitting.now
                    made = self._split(work, attend, halves) if split else work.whole()
            except OutOfStepError:
                self.repeated += 1
                continue
            if not group.exchange.incomplete.any():
                group.splitting.finished()
                return made
            self.repeated += 1

    def _divides(self, attend: Any) -> bool:
        """Whether a pass with this memory may be split."""
        able = isinstance(self.model, Deepseek) and isinstance(attend, DivisibleLatents)
        return able and len(self.group.exchange.lanes) > 1

    def _split(self, work: _Work, attend: Any, halves: Halves | None) -> Tensor:
        """A pass in two halves that overlap; all tokens are in the first where they do not divide."""
        model = self.model
        assert isinstance(model, Deepseek)
        if halves is None:
            flows = [work.half(model, slice(None), attend), None]
        else:
            first = work.half(model, slice(halves.rows), halves.first)
            flows = [first, work.half(model, slice(halves.rows, None), halves.second)]
        return overlapped(model, flows, self.group.exchange)
