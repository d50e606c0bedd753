"""A version of a forest as the page draws it: clusters, their clients, and how good every tier is."""

from __future__ import annotations

from typing import Any

from silva.adapters.manifest import ClientEntry, Manifest


def outline(manifest: Manifest) -> dict[str, Any]:
    """Plain JSON types: `clusters` by number, each with its `clients`; `clients` of the root alone.

    `figure` says by which of the two figures of a client the forest is judged.
    """
    homes: dict[str | None, list[dict[str, Any]]] = {name: [] for name in manifest.clusters}
    homes[None] = []
    for name, entry in sorted(manifest.clients.items()):
        homes[entry.cluster].append(_client(name, entry))
    numbered = sorted(manifest.clusters, key=lambda name: int(name.removeprefix("cluster-")))
    return {
        "version": manifest.version,
        "parent": manifest.parent,
        "base": manifest.base.id,
        "classes": None if manifest.classes is None else len(manifest.classes),
        "figure": "perplexity" if manifest.classes is None else "accuracy",
        "clusters": [{"name": name, "clients": homes[name]} for name in numbered],
        "clients": homes[None],
    }


def _client(name: str, entry: ClientEntry) -> dict[str, Any]:
    """Without digests, of which `/v1/models/NAME` tells one client's."""
    return {
        "name": name,
        "leaf": entry.leaf is not None,
        "seen": entry.seen,
        "images": entry.images,
        "style": entry.style,
        "accuracy": dict(entry.accuracy),
        "perplexity": dict(entry.perplexity),
    }
