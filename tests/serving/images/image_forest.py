"""A small forest of images on a random backbone."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch

from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.forest import Forest
from silva.adapters.manifest import BaseModel
from silva.adapters.routing import signature
from silva.adapters.tiers import Head, LoraPair, Tier, TierName
from silva.models.adapted import linear_of
from silva.models.backbone import Backbone

RANK = 2


def tier_on(backbone: Backbone, name: TierName, seed: int, classes: int) -> Tier:
    draw = torch.Generator().manual_seed(seed)
    pairs = {
        module: LoraPair(
            B=0.5 * torch.randn(w.shape[0], RANK, generator=draw),
            A=0.5 * torch.randn(RANK, w.shape[1], generator=draw),
        )
        for module in backbone.model.module_names()
        for w in (linear_of(backbone.model, module).weight,)
    }
    width = backbone.model.config.hidden_size
    head = Head(torch.randn(classes, width, generator=draw), torch.randn(classes, generator=draw))
    return Tier(name, pairs, head, 2.0)


def grow(folder: Path, backbone: Backbone, classes: tuple[str, ...] = tiny.CLASSES) -> Forest:
    """Two clusters, three clients in them, and `far`, which hangs on the root."""

    def tier(name: TierName, seed: int) -> Tier:
        return tier_on(backbone, name, seed, len(classes))

    def cluster(n: int) -> NewCluster:
        made = tier("cluster", 10 + n)
        return NewCluster(made, signature({m: p.B for m, p in made.pairs.items()}))

    clients = {
        f"c-{n}": NewClient(
            tier("leaf", 20 + n),
            f"cluster-{n % 2}",
            images=100 + n,
            accuracy={"root": 0.5, "cluster": 0.625, "leaf": 0.75 + n / 16},
        )
        for n in range(3)
    }
    clients["far"] = NewClient(tier("leaf", 29))
    change = Change(
        root=tier("root", 1),
        probe={m: p.A for m, p in tier("root", 2).pairs.items()},
        clusters={f"cluster-{n}": cluster(n) for n in range(2)},
        clients=clients,
    )
    adapter = {"rank": RANK, "alpha": 2.0 * RANK, "targets": ["q_proj", "v_proj"]}
    base = BaseModel(backbone.id, backbone.digest)
    return Forest.create(folder, base, adapter, classes, change)
