"""A forest and PEFT directories: which part of it is written, and what one that is read changes."""

from __future__ import annotations

from pathlib import Path

from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.forest import Forest
from silva.adapters.manifest import ClientEntry
from silva.adapters.module_map import Layout
from silva.adapters.peft import export_peft, export_stack, fit_tier, import_peft
from silva.adapters.peft_path import leaf_of_path
from silva.adapters.routing import signature
from silva.adapters.tiers import Tier, TierName
from silva.errors import ConfigError


def write_path(
    forest: Forest, name: str, folder: Path, *, stack: bool, layout: Layout
) -> tuple[str, ...]:
    """The path of a client or down to a tier, as one directory or (`stack`) one a tier: the names.

    Raises UnknownClientError, and ForestError where `folder` is not empty.
    """
    path, base, classes = forest.path(name), forest.base.id, forest.class_names
    if stack:
        names = export_stack(path, folder, base_id=base, class_names=classes, layout=layout)
        return tuple(names)
    export_peft(path, folder, base_id=base, class_names=classes, layout=layout)
    return (name,)


def write_tier(forest: Forest, tier: str, folder: Path, *, layout: Layout) -> None:
    """One tier alone, "root" or a cluster. Raises ConfigError for another, ForestError as above."""
    adapter = forest.path(known_tier(forest, tier)).tiers[-1]
    base, classes = forest.base.id, forest.class_names
    export_peft(adapter, folder, base_id=base, class_names=classes, layout=layout)


def leaf_change(forest: Forest, folder: Path, client: str, cluster: str = "") -> Change:
    """A directory as the leaf of a client, below its cluster or `cluster`; smaller ranks are padded.

    A client's whole path is read too, where it begins with this forest's root and a cluster. Raises
    ForestError where it fits neither.
    """
    old = forest.manifest.clients.get(client)
    home = cluster or (old.cluster if old else None) or None
    home, leaf = _leaf(forest, folder, home, (cluster,) if cluster else ())
    if old is None:
        return Change(clients={client: NewClient(leaf=leaf, cluster=home, seen=False)})
    return Change(clients={client: _replaced(old, leaf, home)})


def tier_change(forest: Forest, folder: Path, tier: str) -> Change:
    """A directory as the root or a cluster. Raises ConfigError for another tier, ForestError."""
    if known_tier(forest, tier) == "root":
        return Change(root=_fitted(forest, _read(forest, folder, "root", above="root")))
    new = _fitted(forest, _read(forest, folder, "cluster", above=tier))
    bases = signature({name: pair.B for name, pair in new.pairs.items()})
    return Change(clusters={tier: NewCluster(new, bases)})


def known_tier(forest: Forest, tier: str) -> str:
    """`tier`, if every path below it has it. Raises ConfigError."""
    if tier == "root" or tier in forest.clusters:
        return tier
    there = ", ".join(["root", *forest.clusters[:10]])
    raise ConfigError(f"no tier {tier[:40]!r} in this forest", remedy=f"it has {there}")


def _replaced(old: ClientEntry, leaf: Tier, home: str | None) -> NewClient:
    """What was measured with the old leaf or cluster says nothing about the new path."""
    stale = {"leaf"} if home == old.cluster else {"leaf", "cluster"}
    accuracy, perplexity = (
        {name: value for name, value in values.items() if name not in stale}
        for values in (old.accuracy, old.perplexity)
    )
    return NewClient(leaf, home, old.seen, old.images, old.style, accuracy, perplexity)


def _leaf(
    forest: Forest, folder: Path, home: str | None, only: tuple[str, ...]
) -> tuple[str | None, Tier]:
    """A leaf below `home`, or a whole path's leaf and its own cluster, one of `only` if given."""
    tier = _read(forest, folder, "leaf", above=home or "root")
    rank = forest.manifest.adapter.rank
    if any(pair.rank > rank for pair in tier.pairs.values()):
        home, tier = leaf_of_path(forest, tier, only or (*forest.clusters, None)) or (home, tier)
    return home, _fitted(forest, tier)


def _fitted(forest: Forest, tier: Tier) -> Tier:
    shape = forest.manifest.adapter
    return fit_tier(tier, shape.rank, shape.scaling)


def _read(forest: Forest, folder: Path, name: TierName, above: str) -> Tier:
    path = forest.path(above)
    return import_peft(
        folder,
        name=name,
        head=path.head,
        class_names=forest.class_names,
        modules=path.tiers[0].pairs,
    )
