"""Experts of uneven popularity on the dies of an instance, placed as the server would place them.

The imbalance of a system is fitted on published rates. Asked for another popularity, the load of
the hottest die over the mean one is that of `silva.control.placement` with the redundant experts
that the instance has room for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from silva.control.placement import place
from silva.errors import ConfigError
from silva.supernode.cost.experts import placement
from silva.supernode.system import System

_LAYERS = 4
"""Layers that are placed; each has its own favourites, and the mean of all is taken."""


def with_popularity(system: System, skew: float, *, decode: bool) -> System:
    """The system as its instances of decode, or prefill, are with experts of this popularity.

    skew  exponent of Zipf's law over the experts of a layer; 0: the system as it is

    Raises ConfigError for a skew where the model has no experts.
    """
    if not skew:
        return system
    if system.network.is_dense:
        raise ConfigError(
            f"{system.model} has no experts to be popular",
            where="expert_skew",
            remedy="leave it out",
        )
    setup = system.decode if decode else system.prefill
    shared = system.decode.shared_dies if decode else 0
    found = placement(system.network, setup.dies, setup.redundant, shared)
    return replace(
        system,
        imbalance=imbalance(
            int(system.network.experts.routed), found.routed_dies, setup.redundant, skew
        ),
    )


@lru_cache(maxsize=64)
def imbalance(experts: int, dies: int, redundant: int, skew: float) -> float:
    """Load of the hottest die over the mean one, at least 1."""
    draw = np.random.default_rng(0)
    popularity = np.arange(1, experts + 1, dtype=np.float64) ** -skew
    load = np.stack([draw.permutation(popularity) for _ in range(_LAYERS)])
    slots = -(-(experts + int(redundant)) // dies)
    return max(1.0, float(place(load, dies, slots).balance(load).mean()))
