"""A computing peer that has all experts of its model, or is one of the ranks that share them.

A rank votes before each pass, and takes part in those that only others have tokens for
(silva.experts).
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

import torch

from silva.errors import ServingError
from silva.experts.group import TooFewError
from silva.experts.meeting import Meeting
from silva.experts.ranked import RankedModel
from silva.experts.spread import load_ranked
from silva.models.language import LanguageModel
from silva.serving.peers.computing import ComputingPeer
from silva.serving.peers.start import PeerStart
from silva.serving.spread import ranks_of, spread_of

log = logging.getLogger("silva.peer")


class RankedPeer(ComputingPeer):
    """See the module. `ranked` is None where it has all experts."""

    def __init__(self, start: PeerStart) -> None:
        self.ranked: RankedModel | None = None
        super().__init__(start)

    def load_model(self, folder: Path, dtype: torch.dtype) -> LanguageModel:
        """All of it, or with the experts of this rank alone, once all ranks are here."""
        config, ranks = self.start.config, ranks_of(self.start.config, self.role)
        if ranks == 1:
            return super().load_model(folder, dtype)
        self.ranked = load_ranked(
            folder,
            self.start.rank,
            spread_of(config, self.role),
            Meeting(self.start.folder, ranks, f"{self.role}-ranks"),
            dtype=dtype,
            address=self.own_address() or "",
            news=lambda: self.ray.call(lambda: None),
            patience_s=config.experts.patience_s,
            limit_s=config.start_s,  # who takes longer to serve is ended anyway
        )
        return self.ranked

    def run(self) -> None:
        try:
            super().run()
        except ServingError as error:  # such as a rank that the others have taken for dead
            log.error("this process ends: %s", error)
            sys.exit(1)

    def close(self) -> None:
        if self.ranked is not None:
            self.ranked.group.close()
        super().close()

    def compute(self) -> bool:
        """A step, or this rank's part in what the other ranks compute.

        Raises ServingError once others have taken this rank for dead.
        """
        if self.ranked is None:
            return super().compute()
        group = self.ranked.group
        # While ranks are missing a step would fail, and its requests with it.
        computed = group.enough() and self.step()
        group.exchange.check_out()
        self.counters["ranks"] = len(group.alive())
        # Nobody may have tokens until the place of one that has ended is filled again.
        if computed or (not group.bereft() and group.sleep()):
            return computed
        if self.joins():
            with suppress(TooFewError):
                group.take_part()
            return True
        return False

    def step(self) -> bool:
        """What this rank has tokens for itself; False: nothing."""
        return self.engine.step()

    def joins(self) -> bool:
        """Whether to take part, without tokens, in what others have voted for; False: not yet."""
        return True
