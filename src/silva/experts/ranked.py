"""A language model whose experts are spread over a group of ranks: one rank's side of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from silva.experts.exchange import OutOfStepError
from silva.experts.group import RankGroup
from silva.experts.shape import Pass
from silva.models.language import DraftingModel, LanguageConfig

log = logging.getLogger("silva.experts")


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
        self._out = dict.fromkeys(group.exchange.dead, time.monotonic())
        """The dead, and since when that is known."""

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
        return self._pass(Pass.HIDDEN, lambda: self.model.hidden(tokens, positions, attend))

    def logits(self, hidden: Tensor) -> Tensor:
        """See `LanguageModel`."""
        return self.model.logits(hidden)

    def draft(self, hidden: Tensor, tokens: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """See `DraftingModel`."""
        return self._pass(Pass.DRAFT, lambda: self.model.draft(hidden, tokens, positions, attend))

    def _pass(self, wanted: Pass, compute: Callable[[], Tensor]) -> Tensor:
        began_s = time.monotonic()
        try:
            return self._repeat(wanted, compute)
        finally:
            self._note(began_s)

    def _repeat(self, wanted: Pass, compute: Callable[[], Tensor]) -> Tensor:
        """Compute until all ranks agree on what that is and all answers are there."""
        while True:
            try:
                with self.group.taking_part():
                    kind = self.group.turn(wanted)
                    if kind != wanted:
                        self.group.follow(kind)
                        continue
                    self.group.exchange.begin_step()
                    made = compute()
            except OutOfStepError:
                self.repeated += 1
                continue
            if not self.group.exchange.incomplete.any():
                return made
            self.repeated += 1

    def _note(self, began_s: float) -> None:
        """Write to the log who is out or in again since the pass before, and how long that took."""
        now_s, dead = time.monotonic(), self.group.exchange.dead
        if out := sorted(dead - self._out.keys()):
            self._out |= dict.fromkeys(out, began_s)
            seconds = now_s - began_s
            log.warning("ranks %s are out; the pass that noticed it took %.3f s", out, seconds)
        if back := sorted(self._out.keys() - dead):
            seconds = now_s - min(self._out.pop(rank) for rank in back)
            log.warning("ranks %s are in again after %.3f s", back, seconds)
