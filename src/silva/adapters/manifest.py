"""What `versions/<n>.json` says: one version of a forest, without its tensors.

Reading is strict: unknown, missing or ill-typed fields, dangling names and numbers out of range
are a ForestError, whatever the bytes. Equal forests give equal bytes: there is no time in it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from silva.adapters.files import canonical_json, parse_json
from silva.adapters.names import check_client_name, check_cluster_name
from silva.adapters.objects import MAX_OBJECT_BYTES, is_digest
from silva.errors import ForestError

FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 28
MAX_VERSION = 999_999_999
_MAX_CLIENTS, _MAX_CLASSES, _MAX_TEXT = 1_000_000, 100_000, 256
_MAX_SETTINGS_DEPTH = 4
_RESTORE = "roll back to another version, or restore the file from a copy"
_WORD = re.compile(r"[a-z0-9_]{1,32}")

T = TypeVar("T")


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

    accuracy: fraction right on the client's test images, by tier ("root", "cluster", "leaf", ...).
    """

    cluster: str | None = None
    leaf: str | None = None
    seen: bool = True
    images: int = 0
    style: str = ""
    accuracy: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """One version. `objects` maps the digest of every object it names to its size in bytes.

    settings: how the tiers were trained, as tables of whoever trained them; a forest that was not
    tuned by silva, or by an early one, has none.
    """

    version: int
    parent: int | None
    base: BaseModel
    adapter: AdapterShape
    classes: tuple[str, ...]
    probe: str | None
    root: str
    clusters: Mapping[str, ClusterEntry]
    clients: Mapping[str, ClientEntry]
    objects: Mapping[str, int]
    settings: Mapping[str, Any] | None = None

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
        if self.settings is None:
            del fields["settings"]  # versions from before there were any keep their checksum
        return fields | {
            "format": FORMAT,
            "base": dict(vars(self.base)),
            "adapter": vars(self.adapter) | {"targets": list(self.adapter.targets)},
            "classes": list(self.classes),
            "root": {"object": self.root},
            "clusters": {name: dict(vars(entry)) for name, entry in self.clusters.items()},
            "clients": {name: dict(vars(entry)) for name, entry in self.clients.items()},
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
    top = _Reader(plain, "version file", where)
    if top.get("format", _integer(0, MAX_VERSION)) != FORMAT:
        raise ForestError(
            f"has format {plain['format']}, not {FORMAT}",
            where=where,
            remedy="it was written by another version of silva",
        )
    manifest = Manifest(
        version=top.get("version", _integer(1, MAX_VERSION)),
        parent=top.get("parent", _optional(_integer(1, MAX_VERSION))),
        base=base_model(top.get("base", _anything), where),
        adapter=adapter_shape(top.get("adapter", _anything), where),
        classes=check_classes(top.get("classes", _list(_MAX_CLASSES)), where),
        probe=top.get("probe", _optional(_digest)),
        root=_single(top.reader("root")),
        clusters={
            _named(check_cluster_name, name, where): _cluster(_Reader(entry, name, where))
            for name, entry in top.get("clusters", _mapping(_MAX_CLIENTS)).items()
        },
        clients={
            _named(check_client_name, name, where): _client(_Reader(entry, name, where))
            for name, entry in top.get("clients", _mapping(_MAX_CLIENTS)).items()
        },
        objects=_objects(top.get("objects", _mapping(4 * _MAX_CLIENTS)), where),
        settings=top.get("settings", _settings) if "settings" in top.plain else None,
    )
    top.finish()
    _check_names(manifest, where)
    return manifest


def base_model(plain: object, where: object) -> BaseModel:
    """{"id", "digest"} as a BaseModel; ForestError names a bad field."""
    reader = _Reader(plain, "base", where)
    base = BaseModel(id=reader.get("id", _text), digest=reader.get("digest", _digest))
    reader.finish()
    return base


def adapter_shape(plain: object, where: object) -> AdapterShape:
    """{"rank", "alpha", "targets"} as an AdapterShape; ForestError names a bad field."""
    reader = _Reader(plain, "adapter", where)
    shape = AdapterShape(
        rank=reader.get("rank", _integer(1, 65_536)),
        alpha=reader.get("alpha", _number(-1e9, 1e9)),
        targets=reader.get("targets", _words),
    )
    reader.finish()
    return shape


def check_classes(names: object, where: object) -> tuple[str, ...]:
    """Class names in the order of the heads' rows: not empty, each once."""
    if not isinstance(names, list | tuple) or not 1 <= len(names) <= _MAX_CLASSES:
        raise ForestError(f"classes must be 1 to {_MAX_CLASSES} names", where=where)
    if not all(isinstance(n, str) and 0 < len(n) <= _MAX_TEXT for n in names):
        raise ForestError(f"a class name must be text of 1 to {_MAX_TEXT}", where=where)
    if len(set(names)) != len(names):
        raise ForestError("a class name occurs twice", where=where)
    return tuple(names)


def check_settings(settings: object, where: object) -> dict[str, Any] | None:
    """Settings as they will be read back; ForestError where they could not be."""
    reader = _Reader({"settings": settings}, "version file", where)
    return reader.get("settings", _optional(_settings))


def check_client_entry(name: str, entry: ClientEntry, where: object) -> ClientEntry:
    """The entry as it will be read back; ForestError where it could not be."""
    return _client(_Reader(dict(vars(entry)), name, where))


def _single(reader: _Reader) -> str:
    digest = reader.get("object", _digest)
    reader.finish()
    return digest


def _cluster(reader: _Reader) -> ClusterEntry:
    entry = ClusterEntry(reader.get("object", _digest), reader.get("signature", _digest))
    reader.finish()
    return entry


def _client(reader: _Reader) -> ClientEntry:
    accuracy = reader.get("accuracy", _mapping(64))
    for tier, value in accuracy.items():
        if not _WORD.fullmatch(tier) or not _is(_number(0.0, 1.0), value):
            raise reader.error("accuracy", "must be fractions by tier")
    entry = ClientEntry(
        cluster=reader.get("cluster", _optional(_text)),
        leaf=reader.get("leaf", _optional(_digest)),
        seen=reader.get("seen", _boolean),
        images=reader.get("images", _integer(0, 10**12)),
        style=reader.get("style", _text),
        accuracy={tier: float(value) for tier, value in accuracy.items()},
    )
    reader.finish()
    return entry


def _objects(plain: dict[str, Any], where: object) -> dict[str, int]:
    for digest, size in plain.items():
        if not is_digest(digest) or not _is(_integer(0, MAX_OBJECT_BYTES), size):
            raise ForestError("objects must be sizes in bytes by digest", where=where)
    return plain


def _check_names(manifest: Manifest, where: object) -> None:
    for name, client in manifest.clients.items():
        if client.cluster is not None and client.cluster not in manifest.clusters:
            raise ForestError(f"client {name!r} is in no known cluster", where=where)
    if manifest.references() != set(manifest.objects):
        raise ForestError("objects are not those that the version names", where=where)
    if manifest.parent is not None and manifest.parent >= manifest.version:
        raise ForestError("parent is not an older version", where=where)


class _Reader:
    """Takes fields out of a JSON object, each through a check, and refuses what is left over."""

    def __init__(self, plain: object, name: str, where: object) -> None:
        self.name, self.where = name, where
        if not isinstance(plain, dict):
            raise ForestError(f"{name[:80]!r} must be a JSON object", where=where)
        self.plain, self.left = plain, set(plain)

    def get(self, key: str, check: Callable[[Any], T]) -> T:
        if key not in self.plain:
            raise self.error(key, "is missing")
        self.left.discard(key)
        try:
            return check(self.plain[key])
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def reader(self, key: str) -> _Reader:
        return _Reader(self.get(key, _anything), key, self.where)

    def finish(self) -> None:
        if self.left:
            raise self.error(min(map(str, self.left))[:80], "is unknown")

    def error(self, key: str, problem: str) -> ForestError:
        return ForestError(f"{self.name[:80]!r}: field {key!r} {problem}", where=self.where)


def _named(check: Callable[[str], str], name: str, where: object) -> str:
    try:
        return check(name)
    except ForestError as error:
        raise ForestError(error.what, where=where) from error


def _anything(value: Any) -> Any:
    return value


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be an integer from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high or math.isnan(value):
            raise ValueError(f"must be a number from {low} to {high}")
        return float(value)

    return check


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("must be true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"must be text of at most {_MAX_TEXT}")
    return value


def _words(value: Any) -> tuple[str, ...]:
    words = _list(64)(value)
    if not words or not all(isinstance(w, str) and _WORD.fullmatch(w) for w in words):
        raise ValueError("must be words of a-z, 0-9, '_'")
    if len(set(words)) != len(words):
        raise ValueError("names a module twice")
    return tuple(words)


def _digest(value: Any) -> str:
    if not is_digest(value):
        raise ValueError("must be a SHA-256 in hexadecimal")
    return str(value)


def _list(limit: int) -> Callable[[Any], list[Any]]:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple) or len(value) > limit:
            raise ValueError(f"must be a list of at most {limit}")
        return list(value)

    return check


def _mapping(limit: int) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > limit:
            raise ValueError(f"must be an object of at most {limit}")
        return value

    return check


def _settings(value: Any, depth: int = _MAX_SETTINGS_DEPTH) -> dict[str, Any]:
    """Nested tables of numbers, truth values, texts and lists of these."""
    table = _mapping(64)(value)
    for name, inner in table.items():
        if not isinstance(name, str) or not _WORD.fullmatch(name):
            raise ValueError("must have names of a-z, 0-9, '_'")
        if isinstance(inner, dict) and depth > 1:
            _settings(inner, depth - 1)
            continue
        for entry in inner if isinstance(inner, list) and len(inner) <= 64 else [inner]:
            if not _is(_scalar, entry):
                raise ValueError(f"must have simple values of short texts ({name})")
    return table


def _scalar(value: Any) -> None:
    if isinstance(value, str):
        _text(value)
    elif not isinstance(value, bool):
        _number(-1e300, 1e300)(value)


def _optional(check: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else check(value)


def _is(check: Callable[[Any], object], value: Any) -> bool:
    try:
        check(value)
    except ValueError:
        return False
    return True
