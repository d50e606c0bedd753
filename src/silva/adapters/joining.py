"""A client joins a forest by its probe alone, and is answered by root and cluster from then on."""

from __future__ import annotations

from dataclasses import dataclass

from silva.adapters.change import Change, NewClient
from silva.adapters.forest import Forest
from silva.adapters.names import check_client_name
from silva.adapters.probe_file import Probed
from silva.adapters.routing import nearest, similarities
from silva.errors import ForestError


@dataclass(frozen=True)
class Joined:
    """The forest's new version, and why the client is in its cluster: similarities in [0, 1]."""

    forest: Forest
    client: str
    cluster: str
    similarities: dict[str, float]


def join(forest: Forest, client: str, probed: Probed) -> Joined:
    """Route a client and commit it without a leaf.

    Raises ForestError for a name that is taken or not allowed, for a forest without clusters, and for a
    probe that does not have the shapes of its adapters.
    """
    check_client_name(client)
    if client in forest.manifest.clients:
        raise ForestError(f"client {client!r} is there already", remedy="choose another name")
    if not forest.clusters:
        raise ForestError("has no clusters to route to", where=forest.folder)
    _check_shapes(forest, probed)
    scores = similarities(probed.factors, [forest.signature(name) for name in forest.clusters])
    if max(scores) <= 0.0:
        raise ForestError("the probe has no direction", remedy="probe the client with more data")
    cluster = forest.clusters[nearest(scores)]
    new = NewClient(cluster=cluster, seen=False, images=probed.images)
    # Somebody else may have added a client of this name since the forest was loaded.
    grown = forest.commit(Change(clients={client: new}), parent=forest.version)
    return Joined(grown, client, cluster, dict(zip(forest.clusters, scores, strict=True)))


def _check_shapes(forest: Forest, probed: Probed) -> None:
    (root,) = forest.path("root").tiers
    wanted = {module: tuple(pair.B.shape) for module, pair in root.pairs.items()}
    found = {module: tuple(B.shape) for module, B in probed.factors.items()}
    if wanted != found:
        raise ForestError(
            "the probe does not fit the forest's adapters",
            where=forest.folder,
            remedy="probe the client with this forest",
        )
