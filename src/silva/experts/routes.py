"""Which rank, and which of its slots, a token's expert is reached at."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Routes:
    """The replicas of one layer's experts, those on dead ranks left out.

    A place is ``rank * slots + slot``. Replicas take turns, beginning with another one on each
    rank, so that they share the load evenly without anybody counting.
    """

    def __init__(
        self, slots: NDArray[np.integer], experts: int, rank: int, dead: Collection[int] = ()
    ) -> None:
        """slots [ranks, slots]: experts, or -1 for none. `rank`: whose tokens are sent."""
        held: list[list[int]] = [[] for _ in range(experts)]
        width = slots.shape[1]
        for at, expert in enumerate(slots.ravel().tolist()):
            if expert >= 0 and at // width not in dead:
                held[expert].append(at)
        most = max(1, *(len(places) for places in held))
        self.lost = tuple(expert for expert, places in enumerate(held) if not places)
        """Experts that no rank alive holds."""
        self.held = torch.tensor([len(places) for places in held])
        """Replicas of each expert [experts]."""
        self.replicas = torch.tensor([places + [-1] * (most - len(places)) for places in held])
        """Their places [experts, most]; -1 where there are fewer."""
        self._rank = rank

    def places(self, experts: Tensor) -> Tensor:
        """The place for each of a token's experts int64 [tokens, top_k]; -1: it is lost."""
        turn = torch.arange(len(experts))[:, None] + self._rank
        turn = turn % self.held[experts].clamp_min(1)
        return self.replicas[experts].gather(2, turn[..., None])[..., 0]
