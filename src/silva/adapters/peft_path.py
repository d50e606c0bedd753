"""A whole path that comes back as one adapter of the summed rank: what of it is the leaf?

    A = [A_r; A_c; A_l],   B = [B_r, B_c, B_l]        (`AdapterPath.flattened`)

That is defined where the first parts are a forest's own root and one of its clusters, number for
number; whatever follows is the leaf.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from silva.adapters.forest import Forest
from silva.adapters.tiers import AdapterPath, LoraPair, Tier


def leaf_of_path(
    forest: Forest, tier: Tier, clusters: Iterable[str | None]
) -> tuple[str | None, Tier] | None:
    """The cluster whose path `tier` begins with, and the leaf that follows; the first that fits.

    None among `clusters` is the root alone. Returns None when `tier` begins with no such path, or
    when what follows has a greater rank than the forest's tiers.
    """
    for cluster in clusters:
        leaf = _below(tier, forest.path(cluster or "root"))
        if leaf and all(pair.rank <= forest.manifest.adapter.rank for pair in leaf.pairs.values()):
            return cluster, leaf
    return None


def _below(tier: Tier, above: AdapterPath) -> Tier | None:
    """What `tier` adds to `above`; None where it does not begin with it."""
    first = above.flattened()
    if set(first.pairs) != set(tier.pairs) or not math.isclose(first.scaling, tier.scaling):
        return None
    pairs = {}
    for module, pair in tier.pairs.items():
        part = first.pairs[module]
        same_A = torch.equal(pair.A[: part.rank], part.A)
        if not same_A or not torch.equal(pair.B[:, : part.rank], part.B):
            return None
        pairs[module] = LoraPair(B=pair.B[:, part.rank :], A=pair.A[part.rank :])
    return Tier("leaf", pairs, tier.head, first.scaling)
