"""A small forest of a language model: random adapters on a tiny model."""

from __future__ import annotations

from pathlib import Path

from path_cases import random_tier

from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.forest import Forest
from silva.adapters.manifest import BaseModel
from silva.adapters.routing import signature
from silva.adapters.tiers import Tier
from silva.models.language_loader import load_language_model


def grow(folder: Path, model: Path) -> Forest:
    """Two clusters, three clients in them, and `far`, which hangs on the root."""
    loaded = load_language_model(model)

    def cluster(n: int) -> NewCluster:
        tier = random_tier(loaded, "cluster", 10 + n)
        return NewCluster(tier, signature({m: p.B for m, p in tier.pairs.items()}))

    def leaf(n: int) -> Tier:
        return random_tier(loaded, "leaf", 20 + n)

    clients = {
        f"c-{n}": NewClient(
            leaf(n),
            f"cluster-{n % 2}",
            images=40 + n,
            perplexity={"root": 30.0, "cluster": 20.0, "leaf": 12.5 - n},
        )
        for n in range(3)
    }
    clients["far"] = NewClient(leaf(9))
    change = Change(
        root=random_tier(loaded, "root", 1),
        clusters={f"cluster-{n}": cluster(n) for n in range(2)},
        clients=clients,
    )
    adapter = {"rank": 3, "alpha": 6.0, "targets": ["q_proj", "v_proj"]}
    return Forest.create(folder, BaseModel("tiny", loaded.digest), adapter, None, change)
