"""What `versions/<n>.json` says: one version of a forest, without its tensors.

Reading is strict: unknown, missing or ill-typed fields, dangling names and numbers out of range
are a ForestError, whatever the bytes. Equal forests give equal bytes: there is no time in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from silva.adapters.fields import (
    MAX_TEXT,
    WORD,
    Reader,
    anything,
    boolean,
    digest,
    fits,
    integer,
    listed,
    mapping,
    named,
    number,
    optional,
    tables,
    text,
    words,
)
from silva.adapters.files import canonical_json, parse_json
from silva.adapters.label_priors import LabelPriors, label_priors
from silva.adapters.names import check_client_name, check_cluster_name
from silva.adapters.objects import MAX_OBJECT_BYTES, is_digest
from silva.errors import ForestError

FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 28
MAX_VERSION = 999_999_999
_MAX_CLIENTS, _MAX_CLASSES = 1_000_000, 100_000
_MAX_PERPLEXITY = 1e308
_RESTORE = "roll back to another version, or restore the file from a copy"


@dataclass(frozen=True)
class BaseModel:
    """The frozen model under the forest: a name for people, the digest of its weights for us."""

    id: str
    digest: str


@dataclass(frozen=True)
class AdapterShape:
    """What every tier's pairs have in common; targets are the last parts of module names."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class ClusterEntry:
    """Digests of a cluster's tier and of the signature that routes clients to it."""

    object: str
    signature: str


@dataclass(frozen=True)
class ClientEntry:
    """One client: `cluster` None means root + leaf, `leaf` None a path that ends above it.

    accuracy: fraction right on the client's test images, by tier ("root", "cluster", "leaf", ...);
    perplexity: of a language model on its test texts, likewise. images: what it had to train on,
    images or windows of text.
    """

    cluster: str | None = None
    leaf: str | None = None
    seen: bool = True
    images: int = 0
    style: str = ""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    perplexity: Mapping[str, float] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        """Plain JSON types; of images and their forests nothing is said about perplexity."""
        return {k: v for k, v in vars(self).items() if k != "perplexity" or v}


@dataclass(frozen=True)
class Manifest:
    """One version. `objects` maps the digest of every object it names to its size in bytes.

    classes: rows of every tier's head; None in the forest of a language model, whose tiers have no
    heads. settings: how the tiers were trained, as tables of whoever trained them; a forest that was
    not tuned by silva, or by an early one, has none. labels: how frequent classes are with its clients,
    where heads take that into account.
    """

    version: int
    parent: int | None
    base: BaseModel
    adapter: AdapterShape
    classes: tuple[str, ...] | None
    probe: str | None
    root: str
    clusters: Mapping[str, ClusterEntry]
    clients: Mapping[str, ClientEntry]
    objects: Mapping[str, int]
    settings: Mapping[str, Any] | None = None
    labels: LabelPriors | None = None

    def references(self) -> set[str]:
        """Digests of all objects that this version names."""
        found = {self.root} | ({self.probe} if self.probe else set())
        for cluster in self.clusters.values():
            found |= {cluster.object, cluster.signature}
        return found | {client.leaf for client in self.clients.values() if client.leaf}

    def as_plain(self) -> dict[str, Any]:
        """Plain JSON types; `from_plain` is its inverse."""
        # Not `dataclasses.asdict`, which copies deeply: slow with ten thousand clients.
        fields = dict(vars(self))
        for late in ("settings", "labels"):
            if fields[late] is None:
                del fields[late]  # versions from before there were any keep their checksum
        if self.labels is not None:
            fields["labels"] = self.labels.as_plain()
        return fields | {
            "format": FORMAT,
            "base": dict(vars(self.base)),
            "adapter": vars(self.adapter) | {"targets": list(self.adapter.targets)},
            "classes": None if self.classes is None else list(self.classes),
            "root": {"object": self.root},
            "clusters": {name: dict(vars(entry)) for name, entry in self.clusters.items()},
            "clients": {name: entry.as_plain() for name, entry in self.clients.items()},
        }

    def checksum(self) -> str:
        """SHA-256 of the content; a version file carries it, since digits flip unseen."""
        return hashlib.sha256(canonical_json(self.as_plain())).hexdigest()

    def to_bytes(self) -> bytes:
        return canonical_json({**self.as_plain(), "checksum": self.checksum()}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: object) -> Manifest:
        """Parse a version file; ForestError for every malformed or damaged one."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise ForestError(f"has more than {MAX_MANIFEST_BYTES} bytes", where=where)
        try:
            plain = parse_json(data, where)
            checksum = plain.pop("checksum", None) if isinstance(plain, dict) else None
            manifest = from_plain(plain, where)
        except ForestError as error:
            remedy = error.remedy or _RESTORE
            raise ForestError(error.what, where=error.where, remedy=remedy) from error
        if manifest.checksum() != checksum:
            raise ForestError("is damaged: checksum does not match", where=where, remedy=_RESTORE)
        return manifest


def from_plain(plain: Any, where: object) -> Manifest:
    """Check a version's fields one by one; ForestError names the field that is wrong."""
    top = Reader(plain, "version file", where)
    if top.get("format", integer(0, MAX_VERSION)) != FORMAT:
        raise ForestError(
            f"has format {plain['format']}, not {FORMAT}",
            where=where,
            remedy="it was written by another version of silva",
        )
    classes = check_classes(top.get("classes", optional(listed(_MAX_CLASSES))), where)
    manifest = Manifest(
        version=top.get("version", integer(1, MAX_VERSION)),
        parent=top.get("parent", optional(integer(1, MAX_VERSION))),
        base=base_model(top.get("base", anything), where),
        adapter=adapter_shape(top.get("adapter", anything), where),
        classes=classes,
        probe=top.get("probe", optional(digest)),
        root=_single(top.reader("root")),
        clusters={
            named(check_cluster_name, name, where): _cluster(Reader(entry, name, where))
            for name, entry in top.get("clusters", mapping(_MAX_CLIENTS)).items()
        },
        clients={
            named(check_client_name, name, where): _client(Reader(entry, name, where))
            for name, entry in top.get("clients", mapping(_MAX_CLIENTS)).items()
        },
        objects=_objects(top.get("objects", mapping(4 * _MAX_CLIENTS)), where),
        settings=top.get("settings", tables) if "settings" in top.plain else None,
        labels=_labels(top, len(classes or ())) if "labels" in top.plain else None,
    )
    top.finish()
    _check_names(manifest, where)
    return manifest


def base_model(plain: object, where: object) -> BaseModel:
    """{"id", "digest"} as a BaseModel; ForestError names a bad field."""
    reader = Reader(plain, "base", where)
    base = BaseModel(id=reader.get("id", text), digest=reader.get("digest", digest))
    reader.finish()
    return base


def adapter_shape(plain: object, where: object) -> AdapterShape:
    """{"rank", "alpha", "targets"} as an AdapterShape; ForestError names a bad field."""
    reader = Reader(plain, "adapter", where)
    shape = AdapterShape(
        rank=reader.get("rank", integer(1, 65_536)),
        alpha=reader.get("alpha", number(-1e9, 1e9)),
        targets=reader.get("targets", words),
    )
    reader.finish()
    return shape


def check_classes(names: object, where: object) -> tuple[str, ...] | None:
    """Class names in the order of the heads' rows: not empty, each once; None: there are no heads."""
    if names is None:
        return None
    if not isinstance(names, list | tuple) or not 1 <= len(names) <= _MAX_CLASSES:
        raise ForestError(f"classes must be 1 to {_MAX_CLASSES} names", where=where)
    if not all(isinstance(n, str) and 0 < len(n) <= MAX_TEXT for n in names):
        raise ForestError(f"a class name must be text of 1 to {MAX_TEXT}", where=where)
    if len(set(names)) != len(names):
        raise ForestError("a class name occurs twice", where=where)
    return tuple(names)


def check_settings(settings: object, where: object) -> dict[str, Any] | None:
    """Settings as they will be read back; ForestError where they could not be."""
    reader = Reader({"settings": settings}, "version file", where)
    return reader.get("settings", optional(tables))


def check_client_entry(name: str, entry: ClientEntry, where: object) -> ClientEntry:
    """The entry as it will be read back; ForestError where it could not be."""
    return _client(Reader(dict(vars(entry)), name, where))


def _single(reader: Reader) -> str:
    found = reader.get("object", digest)
    reader.finish()
    return found


def _cluster(reader: Reader) -> ClusterEntry:
    entry = ClusterEntry(reader.get("object", digest), reader.get("signature", digest))
    reader.finish()
    return entry


def _client(reader: Reader) -> ClientEntry:
    entry = ClientEntry(
        cluster=reader.get("cluster", optional(text)),
        leaf=reader.get("leaf", optional(digest)),
        seen=reader.get("seen", boolean),
        images=reader.get("images", integer(0, 10**12)),
        style=reader.get("style", text),
        accuracy=_by_tier(reader, "accuracy", 0.0, 1.0),
        perplexity=_by_tier(reader, "perplexity", 1.0, _MAX_PERPLEXITY),
    )
    reader.finish()
    return entry


def _by_tier(reader: Reader, figure: str, low: float, high: float) -> dict[str, float]:
    """A client's values of one figure; a client of images says nothing about perplexity."""
    if figure == "perplexity" and figure not in reader.plain:
        return {}
    values = reader.get(figure, mapping(64))
    for tier, value in values.items():
        if not WORD.fullmatch(tier) or not fits(number(low, high), value):
            raise reader.error(figure, f"must be numbers from {low:g} to {high:g} by tier")
    return {tier: float(value) for tier, value in values.items()}


def _labels(reader: Reader, classes: int) -> LabelPriors:
    return label_priors(reader.get("labels", anything), classes, reader.where)


def _objects(plain: dict[str, Any], where: object) -> dict[str, int]:
    for name, size in plain.items():
        if not is_digest(name) or not fits(integer(0, MAX_OBJECT_BYTES), size):
            raise ForestError("objects must be sizes in bytes by digest", where=where)
    return plain


def _check_names(manifest: Manifest, where: object) -> None:
    for name, client in manifest.clients.items():
        if client.cluster is not None and client.cluster not in manifest.clusters:
            raise ForestError(f"client {name!r} is in no known cluster", where=where)
    if manifest.labels is not None and set(manifest.labels.groups) - set(manifest.clusters):
        raise ForestError("labels are of a cluster that is not there", where=where)
    if manifest.references() != set(manifest.objects):
        raise ForestError("objects are not those that the version names", where=where)
    if manifest.parent is not None and manifest.parent >= manifest.version:
        raise ForestError("parent is not an older version", where=where)
