"""Small forests for the tests: rectangular modules, random B, two clusters, four clients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.forest import Forest
from silva.adapters.manifest import BaseModel
from silva.adapters.tiers import NO_HEAD, Head, LoraPair, Tier, TierName

BASE = BaseModel(id="tiny", digest="ab" * 32)
ADAPTER = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"]}
CLASSES = ("ant", "bee", "cow")
MODULES = [f"layers.{n}.attention.{p}" for n in range(2) for p in ("q_proj", "v_proj")]


def tier(name: TierName, seed: int, rank: int = 2, scaling: float = 2.0) -> Tier:
    g = torch.Generator().manual_seed(seed)
    pairs = {
        m: LoraPair(B=torch.randn(7, rank, generator=g), A=torch.randn(rank, 5, generator=g))
        for m in MODULES
    }
    head = Head(torch.randn(3, 5, generator=g), torch.randn(3, generator=g))
    return Tier(name, pairs, head, scaling)


def signature(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.linalg.qr(torch.randn(7, 2, generator=g))[0] for m in MODULES}


def draw(seed: int = 5) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(2, 5, generator=g) for m in MODULES}


def full_change() -> Change:
    clusters = {f"cluster-{n}": NewCluster(tier("cluster", 10 + n), signature(n)) for n in range(2)}
    clients = {
        f"c-{n:02d}": NewClient(
            leaf=tier("leaf", 20 + n),
            cluster=f"cluster-{n % 2}",
            images=50,
            accuracy={"root": 0.5, "cluster": 0.6, "leaf": 0.7},
        )
        for n in range(3)
    }
    clients["u-00"] = NewClient(cluster="cluster-1", seen=False, style="noisy")
    return Change(root=tier("root", 1), probe=draw(), clusters=clusters, clients=clients)


def make_forest(folder: Path) -> Forest:
    return Forest.create(folder, BASE, ADAPTER, CLASSES, full_change())


def make_headless(folder: Path) -> Forest:
    """The same as of a language model."""

    def bare(whole: object) -> Tier:
        assert isinstance(whole, Tier)
        return replace(whole, head=NO_HEAD)

    change = full_change()
    clusters = {n: replace(c, tier=bare(c.tier)) for n, c in change.clusters.items()}
    clients = {
        n: replace(c, leaf=bare(c.leaf) if c.leaf else None, accuracy={})
        for n, c in change.clients.items()
    }
    change = replace(change, root=bare(change.root), clusters=clusters, clients=clients)
    return Forest.create(folder, BASE, ADAPTER, None, change)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def same_tier(one: Tier, other: Tier) -> bool:
    return (
        one.name == other.name
        and one.scaling == other.scaling
        and set(one.pairs) == set(other.pairs)
        and all(torch.equal(p.A, other.pairs[m].A) for m, p in one.pairs.items())
        and all(torch.equal(p.B, other.pairs[m].B) for m, p in one.pairs.items())
        and torch.equal(one.head.weight, other.head.weight)
        and torch.equal(one.head.bias, other.head.bias)
    )
