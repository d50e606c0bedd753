"""A forest as a tree of lines: sizes, and how good every tier is."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from silva.adapters.forest import Forest
from silva.adapters.manifest import Manifest
from silva.federation.figures import Figure, figure_of, values_of


def tree_of(forest: Forest, limit: int) -> Tree:
    """Root, clusters and clients, at most `limit` of these in each cluster."""
    manifest = forest.manifest
    total = f"{sum(manifest.objects.values()) / 1e6:.1f} MB"
    title = f"{forest.folder}  version {manifest.version}, base {manifest.base.id}, "
    heads = f"{len(forest.class_names)} classes, " if forest.class_names else ""
    tree = Tree(Text(f"{title}{heads}{total}"))
    everyone = sorted(manifest.clients)
    root = tree.add(Text(_tier_line("root", manifest, manifest.root, everyone, "root")))
    homes: list[str | None] = [*forest.clusters, None]
    for home in homes:
        members = [name for name in everyone if manifest.clients[name].cluster == home]
        branch = root
        if home is not None:
            digest = manifest.clusters[home].object
            branch = root.add(Text(_tier_line(home, manifest, digest, members, "cluster")))
        for name in members[:limit]:
            branch.add(Text(_client_line(name, manifest)))
        if len(members) > limit:
            branch.add(Text(f"... {len(members) - limit} more"))
    return tree


def _tier_line(name: str, manifest: Manifest, digest: str, members: list[str], tier: str) -> str:
    figure = figure_of(manifest)
    found = [values_of(manifest.clients[m], figure) for m in members]
    values = [by_tier[tier] for by_tier in found if tier in by_tier]
    mean = f", mean {figure.name} {_shown(figure, sum(values) / len(values))}" if values else ""
    return f"{name}  {_kilobytes(manifest.objects[digest])}, {len(members)} clients{mean}"


def _client_line(name: str, manifest: Manifest) -> str:
    entry, figure = manifest.clients[name], figure_of(manifest)
    parts = [_kilobytes(manifest.objects[entry.leaf]) if entry.leaf else "no leaf"]
    if not entry.seen:
        parts.append("unseen")
    if entry.style:
        parts.append(repr(entry.style))
    if entry.images:
        parts.append(f"{entry.images} {figure.examples}")
    values = values_of(entry, figure)
    ordered = sorted(values, key=lambda tier: ("root", "cluster", "leaf", tier).index(tier))
    parts += [f"{tier} {_shown(figure, values[tier])}" for tier in ordered]
    return f"{name}  {', '.join(parts)}"


def _shown(figure: Figure, value: float) -> str:
    return f"{figure.number(value)} %" if figure.percent else figure.number(value)


def _kilobytes(size: int) -> str:
    return f"{size / 1e3:.0f} kB"
