"""What one commit adds to a forest or replaces in it, and how it becomes the next version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from torch import Tensor

from silva.adapters import codec
from silva.adapters.label_priors import LabelPriors
from silva.adapters.manifest import ClientEntry, ClusterEntry, Manifest, check_client_entry
from silva.adapters.names import check_client_name, check_cluster_name
from silva.adapters.objects import ObjectStore, Stored
from silva.adapters.tiers import Tier
from silva.errors import ForestError


@dataclass(frozen=True)
class NewCluster:
    """A cluster's tier, and orthonormal bases [out, rank] by module that route clients to it."""

    tier: Tier
    signature: Mapping[str, Tensor]


@dataclass(frozen=True)
class NewClient:
    """A client's place in the forest; it replaces a client of the same name.

    leaf      the leaf's tier; a function is called when the leaf is written, so that ten thousand
              leaves need not be in memory together; None: the path ends above it (zero leaf)
    cluster   None: the path is root + leaf
    accuracy  fraction right on the client's test images, by tier; `perplexity` of a language model
    """

    leaf: Tier | Callable[[], Tier] | None = None
    cluster: str | None = None
    seen: bool = True
    images: int = 0
    style: str = ""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    perplexity: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Additions and replacements; what is not named stays. `probe` holds A [rank, in] by module.

    Figures of clients that stay go where the root or their cluster is replaced by another one.
    """

    root: Tier | None = None
    probe: Mapping[str, Tensor] | None = None
    clusters: Mapping[str, NewCluster] = field(default_factory=dict)
    clients: Mapping[str, NewClient] = field(default_factory=dict)


class Growth:
    """Writes the objects of a change; `undo` erases those that were not there before."""

    def __init__(self, store: ObjectStore, where: object) -> None:
        self.store, self.where = store, where
        self.sizes: dict[str, int] = {}
        self._fresh: list[str] = []

    def grow(self, old: Manifest, change: Change, root: Tier) -> Manifest:
        """`old` with the change, objects written; `root` is a tier of the shapes to expect.

        Names and numbers are checked before the first byte is written. Raises ForestError when a
        name, a number or a tensor does not fit the forest.
        """
        entries = self._check(old, change)
        clusters = dict(old.clusters)
        grown = replace(old)
        if change.root is not None:
            grown = replace(grown, root=self._tier(old, change.root, root, "root", "root"))
        if change.probe is not None:
            draw = dict(change.probe)
            self._modules(draw, root, "the probe")
            grown = replace(grown, probe=self._put(codec.encode_probe(draw)))
        for name, cluster in change.clusters.items():
            tier = self._tier(old, cluster.tier, root, "cluster", name)
            self._modules(cluster.signature, root, f"signature of {name}")
            signature = codec.encode_signature(cluster.signature)
            codec.decode_signature(signature, f"signature of {name}")
            clusters[name] = ClusterEntry(tier, self._put(signature))
        grown = replace(grown, clusters=clusters, labels=_still_true(old, clusters))
        clients = {name: _measured(entry, old, grown) for name, entry in old.clients.items()}
        for name, entry in entries.items():
            source = change.clients[name].leaf
            leaf = source() if callable(source) else source
            digest = self._tier(old, leaf, root, "leaf", name) if leaf is not None else None
            clients[name] = replace(entry, leaf=digest)
        grown = replace(grown, clients=clients)
        sizes = {**old.objects, **self.sizes}
        return replace(grown, objects={d: sizes[d] for d in sorted(grown.references())})

    def undo(self) -> None:
        """Erase what was written; the version that names it must not exist."""
        for digest in self._fresh:
            with suppress(OSError):
                self.store.erase(digest)

    def _check(self, old: Manifest, change: Change) -> dict[str, ClientEntry]:
        known = {*old.clusters, *map(check_cluster_name, change.clusters)}
        entries = {}
        for name, client in change.clients.items():
            entry = ClientEntry(
                cluster=client.cluster,
                seen=client.seen,
                images=client.images,
                style=client.style,
                accuracy=client.accuracy,
                perplexity=client.perplexity,
            )
            entries[check_client_name(name)] = check_client_entry(name, entry, self.where)
            if client.cluster is not None and client.cluster not in known:
                text = f"client {name!r} names a cluster {client.cluster[:40]!r} that is not there"
                raise ForestError(text, where=self.where)
        return entries

    def _tier(self, old: Manifest, tier: Tier, root: Tier, kind: str, owner: str) -> str:
        where = f"{self.where}, tier of {owner}"
        if tier.name != kind:
            raise ForestError(f"is a {tier.name}, not a {kind}", where=where)
        codec.check_like(tier, root, old.adapter.rank, old.adapter.scaling, where)
        targets = {module.rsplit(".", 1)[-1] for module in tier.pairs}
        if targets != set(old.adapter.targets):
            text = f"adapts {sorted(targets)}, the forest {sorted(old.adapter.targets)}"
            raise ForestError(text, where=where)
        classes = len(old.classes or ())
        if tier.head.classes != classes:
            text = f"head has {tier.head.classes} classes, the forest {classes}"
            raise ForestError(text, where=where)
        return self._put(codec.encode_tier(tier))

    def _modules(self, matrices: Mapping[str, Tensor], root: Tier, what: str) -> None:
        if set(matrices) != set(root.pairs):
            raise ForestError(f"{what} does not name the root's modules", where=self.where)

    def _put(self, encoded: codec.Encoded) -> str:
        stored: Stored = self.store.put(*encoded)
        self.sizes[stored.digest] = stored.size_bytes
        if stored.fresh:
            self._fresh.append(stored.digest)
        return stored.digest


def _still_true(old: Manifest, clusters: Mapping[str, ClusterEntry]) -> LabelPriors | None:
    """What the forest says of labels, without clusters whose head is another one now."""
    if old.labels is None:
        return None
    replaced = {name for name, entry in old.clusters.items() if clusters[name] != entry}
    groups = {n: row for n, row in old.labels.groups.items() if n not in replaced}
    return replace(old.labels, groups=groups)


def _measured(entry: ClientEntry, old: Manifest, grown: Manifest) -> ClientEntry:
    """The entry without figures that were taken through a tier which is another one now."""
    if grown.root != old.root:
        return replace(entry, accuracy={}, perplexity={})
    if entry.cluster is None or grown.clusters[entry.cluster].object == (
        old.clusters[entry.cluster].object
    ):
        return entry
    accuracy, perplexity = (
        {tier: value for tier, value in values.items() if tier == "root"}
        for values in (entry.accuracy, entry.perplexity)
    )
    return replace(entry, accuracy=accuracy, perplexity=perplexity)
