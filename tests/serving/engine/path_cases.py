"""Random adapters on a tiny model, as objects on disk and in copies of the stock model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from silva.adapters.codec import encode_tier
from silva.adapters.objects import ObjectStore
from silva.adapters.tiers import NO_HEAD, LoraPair, Tier, TierName
from silva.models.attention_parts import adaptable, attention_weights, usual_targets
from silva.models.language import LanguageModel


def random_tier(model: LanguageModel, name: TierName, seed: int, rank: int = 3) -> Tier:
    shaped = adaptable(model)
    draw = torch.Generator().manual_seed(seed)
    pairs = {
        module: LoraPair(
            B=0.4 * torch.randn(w.shape[0], rank, generator=draw),
            A=0.4 * torch.randn(rank, w.shape[1], generator=draw),
        )
        for module, w in attention_weights(shaped, usual_targets(shaped)).items()
    }
    return Tier(name, pairs, NO_HEAD, 2.0)


class Grove:
    """Two clusters of two clients each: their tiers, and the folder of objects."""

    def __init__(self, folder: Path, model: LanguageModel) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.tiers: dict[str, Tier] = {"root": random_tier(model, "root", 1)}
        for n in range(2):
            self.tiers[f"cluster-{n}"] = random_tier(model, "cluster", 10 + n, rank=2)
        for n in range(4):
            self.tiers[f"c-{n}"] = random_tier(model, "leaf", 20 + n, rank=1 + n)
        store = ObjectStore(folder)
        self.digests = {
            name: store.put(*encode_tier(tier)).digest for name, tier in self.tiers.items()
        }

    def names(self, client: str) -> list[str]:
        """Tiers on the path of "base", "root", "cluster-1" or "c-3"."""
        if client == "base":
            return []
        if client.startswith("c-"):
            return ["root", f"cluster-{int(client[2:]) % 2}", client]
        return ["root"] if client == "root" else ["root", client]

    def path(self, client: str) -> tuple[str, ...]:
        return tuple(self.digests[name] for name in self.names(client))

    def stock(self, stock: Any, client: str) -> Any:
        """A copy of the stock model with the client's tiers added to its weights."""
        grown = copy.deepcopy(stock)
        with torch.no_grad():
            for name in self.names(client):
                for module, pair in self.tiers[name].pairs.items():
                    weight = grown.model.get_submodule(module).weight
                    weight += self.tiers[name].scaling * pair.product()
        return grown


CLIENTS = ("base", "root", "cluster-0", "cluster-1", "c-0", "c-1", "c-2", "c-3")
