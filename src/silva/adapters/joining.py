"""A client joins a forest by its probe, is answered by root and cluster, and may get a leaf later.

What was found out beforehand holds only as long as nobody else changes it: the checks here are made
again while `Forest.commit` has locked the other writers out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from silva.adapters.change import Change, NewClient
from silva.adapters.forest import Forest
from silva.adapters.ledger import Ledger
from silva.adapters.manifest import Manifest
from silva.adapters.names import check_client_name
from silva.adapters.probe_file import Probed
from silva.adapters.routing import nearest, similarities
from silva.adapters.tiers import Tier
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

    `forest` is the version that the probe was made for; others may have committed since. Raises
    ForestError for a name that is taken or not allowed, for a forest without clusters or with others
    by now, and for a probe that does not have the shapes of its adapters.
    """
    check_name(forest.manifest, client)
    if not forest.clusters:
        raise ForestError("has no clusters to route to", where=forest.folder)
    _check_shapes(forest, probed)
    scores = similarities(probed.factors, [forest.signature(name) for name in forest.clusters])
    if max(scores) <= 0.0:
        raise ForestError("the probe has no direction", remedy="probe the client with more data")
    cluster = forest.clusters[nearest(scores)]
    new = NewClient(cluster=cluster, seen=False, images=probed.images)
    grown = forest.commit(Change(clients={client: new}), check=still_new(forest, client))
    return Joined(grown, client, cluster, dict(zip(forest.clusters, scores, strict=True)))


def add_leaf(forest: Forest, client: str, leaf: Tier, images: int) -> Forest:
    """Give a client that has none a leaf, tuned on `images` examples, and commit it.

    `forest` is the version under whose root and cluster it was tuned. Raises ForestError where the
    client has been erased since, even if another one of its name has come, or has got a leaf.
    """
    ledger = Ledger(forest.folder)
    entry = forest.client(client)
    new = NewClient(
        leaf=leaf,
        cluster=entry.cluster,
        seen=entry.seen,
        images=images,
        style=entry.style,
        accuracy=entry.accuracy,
        perplexity=entry.perplexity,
    )

    def still_bare(live: Manifest) -> None:
        # One that was erased and came again is missing in the version between.
        since = [ledger.read(n) for n in ledger.numbers() if n > forest.version]
        same = all(version.clients.get(client) == entry for version in (*since, live))
        if not same or entry.leaf is not None:
            raise ForestError(
                f"client {client!r} is not there any more as it was when its leaf was begun",
                where=forest.folder,
                remedy="nothing was changed; tune a leaf again if it should have one",
            )
        _check_above(forest, live)

    return forest.commit(Change(clients={client: new}), check=still_bare)


def check_name(manifest: Manifest, client: str) -> None:
    """Raises ForestError for a name that a new client may not bear, or that is taken."""
    check_client_name(client)
    if client in manifest.clients:
        raise ForestError(f"client {client!r} is there already", remedy="choose another name")


def still_new(forest: Forest, client: str) -> Callable[[Manifest], None]:
    """For `Forest.commit`: the name is still free, and root and clusters are those of `forest`."""

    def check(live: Manifest) -> None:
        if client in live.clients:
            what = f"client {client!r} is there already: someone else committed it meanwhile"
            raise ForestError(what, where=forest.folder, remedy="choose another name")
        _check_above(forest, live)

    return check


def _check_above(forest: Forest, live: Manifest) -> None:
    known = forest.manifest
    if (known.root, known.probe, known.clusters) != (live.root, live.probe, live.clusters):
        raise ForestError(
            "has another root or other clusters by now: someone else committed",
            where=forest.folder,
            remedy="load the forest again",
        )


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
