"""Keeping a forest well: verify all of it, roll back, remove a client for good.

These work on the folder, so that they also help where `Forest.load` fails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from silva.adapters import codec
from silva.adapters.ledger import Ledger
from silva.adapters.manifest import Manifest
from silva.adapters.names import check_client_name, unknown_client
from silva.errors import ForestError


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found. A forest is sound when nothing is missing and nothing damaged.

    missing     objects that a version names and that are not on disk
    damaged     what does not read as it was written: one line each, naming the file
    orphaned    objects that no version names (an interrupted write leaves some; they harm nobody)
    unfinished  temporary files of interrupted writes
    completed   the client whose interrupted removal was completed first, or None
    """

    versions: tuple[int, ...]
    objects: int
    bytes: int
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    orphaned: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    completed: str | None = None

    @property
    def sound(self) -> bool:
        return not self.missing and not self.damaged


@dataclass
class _Findings:
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0


def verify(
    folder: Path | str,
    *,
    sweep: bool = False,
    after: Callable[[int, int], None] = lambda read, total: None,
) -> VerifyReport:
    """Read every object of every version and compare; complete an interrupted removal first.

    sweep: erase orphaned objects and unfinished files, if nothing is damaged. `after` hears how many
    of how many objects have been read.
    """
    ledger = Ledger(Path(folder))
    with ledger.lock():
        completed = finish_removal(ledger)
        found = _Findings()
        try:
            ledger.current()
        except ForestError as error:
            found.damaged.append(_reason(error))
        manifests = []
        for number in ledger.numbers():
            try:
                manifests.append(ledger.read(number))
            except ForestError as error:
                found.damaged.append(_reason(error))
        named = _uses(manifests)
        for number, digest in enumerate(sorted(named), start=1):
            _verify_object(ledger, digest, named[digest], found)
            after(number, len(named))
        orphaned = sorted(set(ledger.store.digests()) - set(named))
        unfinished = [str(path) for path in ledger.store.unfinished()]
        if sweep and not found.damaged:
            _sweep(ledger, named)
    return VerifyReport(
        versions=tuple(ledger.numbers()),
        objects=found.objects,
        bytes=found.bytes,
        missing=tuple(found.missing),
        damaged=tuple(dict.fromkeys(found.damaged)),
        orphaned=tuple(orphaned),
        unfinished=tuple(unfinished),
        completed=completed,
    )


def rollback(folder: Path | str, number: int) -> Manifest:
    """Make an older version live again; nothing is erased.

    Raises ForestError, and changes nothing, unless the version and all its objects are there.
    """
    ledger = Ledger(Path(folder))
    with ledger.lock():
        finish_removal(ledger)
        numbers = ledger.numbers()
        if number not in numbers:
            kept = ", ".join(map(str, numbers[-10:]))
            raise ForestError(f"no version {number}", where=folder, remedy=f"there are {kept}")
        manifest = ledger.read(number)
        for digest in sorted(manifest.references()):
            ledger.store.read(digest)
        ledger.switch(manifest)
    return manifest


def remove(folder: Path | str, client: str) -> Manifest:
    """Erase a client: its own objects and every version that names it; return the live version.

    Objects that others share stay. A version that cannot be read may name the client, so it goes
    as well. Raises UnknownClientError when no version names the client.
    """
    ledger = Ledger(Path(folder))
    with ledger.lock():
        finish_removal(ledger)
        check_client_name(client)
        manifest = ledger.current()
        if client not in manifest.clients and not _versions_naming(ledger, client):
            raise unknown_client(client, manifest.clients, folder)
        ledger.begin_removal(client)
        finish_removal(ledger)
        return ledger.current()


def finish_removal(ledger: Ledger) -> str | None:
    """Complete a removal that was begun, and return its client. The caller holds the lock.

    The order makes every interruption harmless: a new version without the client, the switch to
    it, then the old versions go, then the objects that only they named, the note of it last.
    """
    client = ledger.removal()
    if client is None:
        return None
    live = ledger.current()
    if client in live.clients:
        live = _without(live, client, ledger.next_number())
        ledger.write(live)
        ledger.switch(live)
    for number in _versions_naming(ledger, client, unreadable=True):
        ledger.erase(number)
    _sweep(ledger, _uses(ledger.read(number) for number in ledger.numbers()))
    ledger.end_removal()
    return client


def _without(manifest: Manifest, client: str, number: int) -> Manifest:
    clients = {name: entry for name, entry in manifest.clients.items() if name != client}
    # The version it grew from is about to be erased, so it has no parent.
    rest = replace(manifest, version=number, parent=None, clients=clients)
    names = rest.references()
    return replace(rest, objects={d: n for d, n in rest.objects.items() if d in names})


def _versions_naming(ledger: Ledger, client: str, *, unreadable: bool = False) -> list[int]:
    found = []
    for number in ledger.numbers():
        try:
            if client in ledger.read(number).clients:
                found.append(number)
        except ForestError:
            if unreadable:
                found.append(number)
    return found


def _uses(manifests: Iterable[Manifest]) -> dict[str, set[str]]:
    """What each object is used as, in all versions: "root", "cluster", "leaf", ..."""
    uses: dict[str, set[str]] = defaultdict(set)
    for manifest in manifests:
        uses[manifest.root].add("root")
        if manifest.probe:
            uses[manifest.probe].add("probe")
        for cluster in manifest.clusters.values():
            uses[cluster.object].add("cluster")
            uses[cluster.signature].add("signature")
        for client in manifest.clients.values():
            if client.leaf:
                uses[client.leaf].add("leaf")
    return uses


def _verify_object(ledger: Ledger, digest: str, uses: set[str], found: _Findings) -> None:
    if not ledger.store.has(digest):
        found.missing.append(digest)
        return
    where = ledger.store.folder / digest
    try:
        encoded = ledger.store.get(digest)
        for use in sorted(uses):
            if use == "signature":
                codec.decode_signature(encoded, where)
            elif use == "probe":
                codec.decode_probe(encoded, where)
            elif codec.decode_tier(encoded, where).name != use:
                raise ForestError(f"is not a {use}", where=where)
    except ForestError as error:
        found.damaged.append(_reason(error))
    found.objects += 1
    found.bytes += where.stat().st_size


def _reason(error: ForestError) -> str:
    """Where and what, without a remedy: that is the same for all."""
    return f"{error.where}: {error.what}"


def _sweep(ledger: Ledger, named: Iterable[str]) -> None:
    """Erase all objects but those named, and temporary files. The caller holds the lock."""
    keep = set(named)
    for digest in sorted(set(ledger.store.digests()) - keep):
        ledger.store.erase(digest)
    for path in ledger.store.unfinished():
        path.unlink(missing_ok=True)
