"""The adapter forest: one root, clusters, a leaf a client, on disk in immutable versions.

    current               number of the live version and its checksum, replaced atomically
    versions/<n>.json     who has which tiers (`silva.adapters.manifest`)
    objects/<digest>      tiers, signatures and the probe, named by content

A commit writes objects, then one version, then `current`; a crash between any two leaves the old
version live and whole. Tiers are read when a path asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor

from silva.adapters import codec, maintenance
from silva.adapters.change import Change, Growth
from silva.adapters.files import fresh_folder
from silva.adapters.label_priors import LabelPriors
from silva.adapters.ledger import Ledger
from silva.adapters.maintenance import VerifyReport
from silva.adapters.manifest import (
    BaseModel,
    ClientEntry,
    Manifest,
    adapter_shape,
    base_model,
    check_classes,
    check_settings,
)
from silva.adapters.names import unknown_client
from silva.adapters.tiers import AdapterPath, Tier
from silva.errors import ForestError


class Forest:
    """One version of a forest, live when it was loaded. Later commits do not change it."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._ledger = Ledger(folder)
        # Shared tiers are asked for again and again; leaves are many and are not kept.
        self._shared: dict[str, Tier] = {}

    @classmethod
    def create(
        cls,
        path: Path | str,
        base: BaseModel,
        adapter: Mapping[str, Any],
        class_names: tuple[str, ...] | None,
        change: Change,
        settings: Mapping[str, Any] | None = None,
        labels: LabelPriors | None = None,
        *,
        scratch: Path | None = None,
    ) -> Self:
        """Write a new forest as its version 1; it appears under `path` whole or not at all.

        adapter     {"rank", "alpha", "targets"} of every tier
        class_names rows of the heads; None where tiers have no heads, as of a language model
        change      the root at least; clusters and clients as far as they are known
        settings    how the tiers were trained, tables of plain JSON types; every version keeps them
        labels      how frequent classes are with its clients; every version keeps that too
        scratch     a folder on the same disk to build it in, for callers who tidy it up themselves;
                    None: beside `path`, where a process that is killed leaves a hidden folder

        Raises ForestError when `path` exists and is not an empty folder, when tiers do not fit each
        other, the rank, the targets or the class names, or when what was written could not be read
        again.
        """
        folder = Path(path)
        if change.root is None:
            raise ForestError("a new forest needs a root", where=folder)
        seed = Manifest(
            version=1,
            parent=None,
            base=base_model(dict(vars(base)), folder),
            adapter=adapter_shape(dict(adapter), folder),
            classes=check_classes(class_names, folder),
            probe=None,
            root="",
            clusters={},
            clients={},
            objects={},
            settings=check_settings(settings, folder),
            labels=labels,
        )
        with fresh_folder(folder, scratch) as building:
            ledger = Ledger(building)
            ledger.make()
            manifest = Growth(ledger.store, folder).grow(seed, change, change.root)
            # A forest that cannot be read again must not take its place.
            Manifest.from_bytes(manifest.to_bytes(), folder)
            ledger.write(manifest)
            ledger.switch(manifest)
        return cls.load(folder)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The live version of the forest in a folder; ForestError when there is none, or damage."""
        folder = Path(path)
        return cls(folder, Ledger(folder).current())

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def base(self) -> BaseModel:
        return self.manifest.base

    @property
    def class_names(self) -> tuple[str, ...]:
        """Rows of the heads; none where the forest is a language model's."""
        return self.manifest.classes or ()

    @property
    def clients(self) -> list[str]:
        """Names of all clients, sorted."""
        return sorted(self.manifest.clients)

    @property
    def clusters(self) -> list[str]:
        """Names of all clusters, by number."""
        return sorted(self.manifest.clusters, key=lambda name: int(name.removeprefix("cluster-")))

    def client(self, name: str) -> ClientEntry:
        """What the version says about a client; UnknownClientError names those that come near."""
        entry = self.manifest.clients.get(name)
        if entry is None:
            raise unknown_client(name, self.manifest.clients, self.folder)
        return entry

    def path(self, client: str, unknown: Literal["error", "root"] = "error") -> AdapterPath:
        """The tiers of a client, of "cluster-2" or of "root", from the root down.

        Objects are read now and checked. With unknown="root" a client of no known name gets the
        root alone, otherwise UnknownClientError. ForestError names a damaged object.
        """
        manifest = self.manifest
        if client == "root":
            return AdapterPath((self._root(),))
        if client in manifest.clusters:
            return AdapterPath((self._root(), self._cluster(client)))
        if client not in manifest.clients and unknown == "root":
            return AdapterPath((self._root(),))
        entry = self.client(client)
        tiers = [self._root()]
        if entry.cluster is not None:
            tiers.append(self._cluster(entry.cluster))
        if entry.leaf is not None:
            tiers.append(self._tier(entry.leaf, "leaf"))
        return AdapterPath(tuple(tiers))

    def signature(self, cluster: str) -> dict[str, Tensor]:
        """Orthonormal bases [out, rank] by module, which route clients to a cluster."""
        entry = self.manifest.clusters.get(cluster)
        if entry is None:
            raise ForestError(f"no cluster {cluster[:40]!r}", where=self.folder)
        store = self._ledger.store
        return codec.decode_signature(store.get(entry.signature), store.folder / entry.signature)

    def probe(self) -> dict[str, Tensor]:
        """The seeded A [rank, in] by module, from which every probe starts."""
        digest = self.manifest.probe
        if digest is None:
            raise ForestError("holds no probe", where=self.folder, remedy="it has no clusters")
        store = self._ledger.store
        return codec.decode_probe(store.get(digest), store.folder / digest)

    def commit(
        self,
        change: Change,
        *,
        parent: int | None = None,
        check: Callable[[Manifest], None] = lambda live: None,
    ) -> Self:
        """Add a change to the live version and make the result live; returns it.

        The live version counts, not this one: others may have committed since. With `parent` the
        commit is refused with ForestError unless that version is still live. `check` is given the
        live version while all other writers are locked out, and refuses by raising ForestError
        (`silva.adapters.joining` has such checks). When the change does not fit or the disk is full,
        ForestError, and the forest is as it was.
        """
        ledger = self._ledger
        with ledger.lock():
            maintenance.finish_removal(ledger)
            live = ledger.current()
            if parent is not None and live.version != parent:
                text = f"version {live.version} is live, not {parent}: someone else committed"
                raise ForestError(text, where=self.folder, remedy="load the forest again")
            check(live)
            number = ledger.next_number()
            growth = Growth(ledger.store, self.folder)
            try:
                # A new root must have the old one's shapes: the tiers below it stay.
                grown = growth.grow(live, change, Forest(self.folder, live)._root())
                grown = replace(grown, version=number, parent=live.version)
                ledger.write(grown)
            except BaseException:
                # The version goes first: none may name an object that is gone.
                with suppress(OSError):
                    ledger.erase(number)
                    growth.undo()
                raise
            ledger.switch(grown)
        return type(self)(self.folder, grown)

    def remove(self, client: str) -> Self:
        """Erase a client's own objects and every version that names it (`maintenance.remove`)."""
        return type(self)(self.folder, maintenance.remove(self.folder, client))

    def rollback(self, number: int) -> Self:
        """Make version `number` live again (`maintenance.rollback`)."""
        return type(self)(self.folder, maintenance.rollback(self.folder, number))

    def verify(self, *, sweep: bool = False) -> VerifyReport:
        """Read every object of every version (`maintenance.verify`)."""
        return maintenance.verify(self.folder, sweep=sweep)

    def _root(self) -> Tier:
        return self._kept(self.manifest.root, "root")

    def _cluster(self, name: str) -> Tier:
        return self._kept(self.manifest.clusters[name].object, "cluster")

    def _kept(self, digest: str, kind: str) -> Tier:
        if digest not in self._shared:
            self._shared[digest] = self._tier(digest, kind)
        return self._shared[digest]

    def _tier(self, digest: str, kind: str) -> Tier:
        where = self._ledger.store.folder / digest
        tier = codec.decode_tier(self._ledger.store.get(digest), where)
        if tier.name != kind:
            raise ForestError(f"is a {tier.name}, not a {kind}", where=where)
        adapter = self.manifest.adapter
        model = tier if kind == "root" else self._root()
        codec.check_like(tier, model, adapter.rank, adapter.scaling, where)
        if tier.head.classes != len(self.class_names):
            raise ForestError("head does not match the forest's classes", where=where)
        return tier
