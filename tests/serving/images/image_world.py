"""A tiny ViT, a forest of random adapters on it, and a service that answers for its clients."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from api_transport import Api

from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.forest import Forest
from silva.adapters.manifest import BaseModel
from silva.adapters.routing import signature
from silva.adapters.tiers import Head, LoraPair, Tier, TierName
from silva.models.adapted import linear_of
from silva.models.backbone import Backbone
from silva.prediction import predict
from silva.serving.images.service import ImageService
from silva.serving.live_forest import LiveForest
from silva.serving.newcomers import Newcomers

RANK = 2


def tier_on(backbone: Backbone, name: TierName, seed: int) -> Tier:
    draw = torch.Generator().manual_seed(seed)
    pairs = {
        module: LoraPair(
            B=0.5 * torch.randn(w.shape[0], RANK, generator=draw),
            A=0.5 * torch.randn(RANK, w.shape[1], generator=draw),
        )
        for module in backbone.model.module_names()
        for w in (linear_of(backbone.model, module).weight,)
    }
    width, classes = backbone.model.config.hidden_size, len(tiny.CLASSES)
    head = Head(torch.randn(classes, width, generator=draw), torch.randn(classes, generator=draw))
    return Tier(name, pairs, head, 2.0)


def grow(folder: Path, backbone: Backbone) -> Forest:
    def cluster(n: int) -> NewCluster:
        tier = tier_on(backbone, "cluster", 10 + n)
        return NewCluster(tier, signature({m: p.B for m, p in tier.pairs.items()}))

    clients = {
        f"c-{n}": NewClient(tier_on(backbone, "leaf", 20 + n), f"cluster-{n % 2}") for n in range(3)
    }
    clients["far"] = NewClient(tier_on(backbone, "leaf", 29))
    change = Change(
        root=tier_on(backbone, "root", 1),
        probe={m: p.A for m, p in tier_on(backbone, "root", 2).pairs.items()},
        clusters={f"cluster-{n}": cluster(n) for n in range(2)},
        clients=clients,
    )
    adapter = {"rank": RANK, "alpha": 2.0 * RANK, "targets": ["q_proj", "v_proj"]}
    base = BaseModel(backbone.id, backbone.digest)
    return Forest.create(folder, base, adapter, tiny.CLASSES, change)


@dataclass
class World:
    """A service over a forest, its API, and pictures as files."""

    forest: Forest
    backbone: Backbone
    live: LiveForest
    service: ImageService
    newcomers: Newcomers
    api: Api
    pictures: list[Path]

    def said(self, client: str, picture: int) -> dict[str, float]:
        """Class -> probability, by the other way there is."""
        [found] = predict(self.forest, client, [self.pictures[picture]], 99, "error", "")
        return dict(zip(found.classes, found.probabilities, strict=True))

    def asked(self, client: str, *pictures: int, **more: Any) -> Any:
        images = [encoded(self.pictures[n]) for n in pictures]
        name = f"vit@{client}" if client else "vit"
        body = {"model": name, "images": images, "top_k": 4, **more}
        return self.api.post("/v1/classify", json=body)


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def close(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert found.keys() == wanted.keys()
    for label, chance in wanted.items():
        assert found[label] == pytest.approx(chance, abs=1e-5)


def told(entry: Any) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in entry["classes"]}
