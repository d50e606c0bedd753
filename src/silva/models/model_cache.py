"""The model cache on disk: whole models, ready to be mapped, the least recently used given up first.

Models are found whole or not at all: they are built in a hidden folder and renamed, and one whose
files have not the sizes that they had is not there. Whoever builds
one holds a lock that the system releases when the process ends, however it ends; what it leaves
behind is swept up by the next. Caching at the granularity of whole models follows CloudMatrix-Infer
(arXiv 2506.12708, section 4.7): one copy on a machine serves all processes that map it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from silva.errors import ModelError
from silva.models.cache_folder import cache_folder
from silva.models.fields import first_line, read_json

GIB = 1 << 30
LIMIT_BYTES = 64 * GIB
"""Until another limit is set."""
RECORD, LIMIT = "silva.json", ".limit"
FORMAT = 1

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_BUILDING, _REMOVING, _LOCK = ".building-", ".removing-", ".lock-"


@dataclass(frozen=True)
class Origin:
    """What a cached model was made from, and as what."""

    name: str
    """What people call it; several entries may share it."""
    source: str
    """Where it came from: a path, or a package's name and version."""
    source_digest: str
    dtype: str
    source_state: tuple[int, ...] = ()
    """Size, time and inode of the file at `source`, while it stands as it was."""


@dataclass(frozen=True)
class Entry:
    """One model of the cache."""

    key: str
    folder: Path
    origin: Origin
    size_bytes: int
    used_s: float
    """When it was last asked for, seconds since 1970."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file when it was built; empty for models of older versions of silva."""


class ModelCache:
    """Models in one folder. Any number of processes may use it at once."""

    def __init__(self, root: Path | None = None, limit_bytes: int | None = None) -> None:
        """`root`: by default `models` in silva's cache folder; it may not exist yet.

        `limit_bytes`: by default the one that was set for all who use the cache.
        """
        self.root = cache_folder() / "models" if root is None else root
        self._limit_bytes = limit_bytes

    @property
    def limit_bytes(self) -> int:
        """Bytes that all models together may have."""
        if self._limit_bytes is not None:
            return self._limit_bytes
        try:
            return int((self.root / LIMIT).read_text())
        except (OSError, ValueError):
            return LIMIT_BYTES

    def set_limit(self, limit_bytes: int) -> list[Entry]:
        """Limit the cache from now on, for every process; the models given up for it.

        Those in use stay, though they may be more than that. Raises ModelError when the folder
        refuses.
        """
        with self._written():
            self.root.mkdir(parents=True, exist_ok=True)
            scratch = self.root / f"{LIMIT}-{secrets.token_hex(4)}"
            scratch.write_text(f"{limit_bytes}\n")
            os.replace(scratch, self.root / LIMIT)
        self._limit_bytes = None
        return self._give_up(limit_bytes)

    def entries(self) -> list[Entry]:
        """All models, the most recently used first."""
        if not self.root.is_dir():
            return []
        found = [_entry(f) for f in sorted(self.root.iterdir()) if _KEY.fullmatch(f.name)]
        return sorted((e for e in found if e is not None), key=lambda e: -e.used_s)

    def get(self, key: str) -> Path | None:
        """The folder of a model, which counts as used now; None where it is not there."""
        folder = self.root / key
        if _entry(folder) is None:
            return None
        with suppress(OSError):
            os.utime(folder / RECORD)
        return folder

    def digests(self, folder: Path) -> Mapping[str, str]:
        """SHA-256 of a model's files as they were written; empty for folders that lie elsewhere."""
        entry = _entry(folder) if folder.parent.resolve() == self.root.resolve() else None
        return {} if entry is None else entry.digests

    def put(
        self,
        key: str,
        origin: Origin,
        size_bytes: int,
        build: Callable[[Path], None],
        waiting: Callable[[], None] = lambda: None,
    ) -> Path:
        """The folder of the model `key`, built now unless it is there.

        `build` fills an empty folder with some `size_bytes`. `waiting` is called when another
        process builds the same model, before this one waits for it. Raises ModelError when there
        is no room, on the disk or within the limit.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key")
        with self._written():
            self.root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with self._locked(key, waiting):
                found = self.get(key)
                if found is not None:
                    return found
                self._make_room(size_bytes)
                return self._build(key, origin, build)

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ModelError(
                f"cannot be written ({error.strerror or first_line(error)})",
                where=self.root,
                remedy="free space, mend the permissions, or set SILVA_CACHE to another folder",
            ) from None

    def remove(self, key: str) -> bool:
        """Give a model up; False when it is in use. Processes that have it mapped keep it."""
        record = self.root / key / RECORD
        try:
            with record.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                gone = self.root / f"{_REMOVING}{key}-{secrets.token_hex(4)}"
                os.replace(self.root / key, gone)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            return True
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def in_use(self, key: str) -> bool:
        """Whether a process holds the model right now; one that was killed does not."""
        with suppress(FileNotFoundError), (self.root / key / RECORD).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def hold(self, folder: Path) -> Iterator[None]:
        """Keep a model of the cache from being given up; nothing happens for other folders."""
        if folder.parent.resolve() != self.root.resolve():
            yield
            return
        with ExitStack() as stack:
            # what is missing inside the caller's block is not the model
            try:
                file = stack.enter_context((folder / RECORD).open("rb"))
                fcntl.flock(file, fcntl.LOCK_SH)
                if not os.path.samestat(os.fstat(file.fileno()), (folder / RECORD).stat()):
                    raise FileNotFoundError
            except FileNotFoundError:
                raise ModelError(
                    "was removed from the cache", where=folder, remedy="ask again"
                ) from None
            yield

    def _build(self, key: str, origin: Origin, build: Callable[[Path], None]) -> Path:
        building, folder = self.root / f"{_BUILDING}{key}", self.root / key
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            build(building)
            files = {f.name: (f.stat().st_size, _digest(f)) for f in sorted(building.iterdir())}
            size = sum(size for size, _ in files.values())
            record = {"format": FORMAT, "size_bytes": size, "files": files, **asdict(origin)}
            (building / RECORD).write_text(json.dumps(record, indent=2) + "\n")
            _sync(building)
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or get had found it
            os.replace(building, folder)
            _sync_folder(self.root)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return folder

    def _make_room(self, size_bytes: int) -> None:
        """Give up models until `size_bytes` fit the limit."""
        limit = self.limit_bytes
        self._give_up(limit - size_bytes)
        total = sum(e.size_bytes for e in self.entries())
        if total + size_bytes > limit:
            raise ModelError(
                f"{_gib(size_bytes)} more do not fit into {_gib(limit)}, {_gib(total)} "
                "of which are in use",
                where=self.root,
                remedy="raise the limit (silva model limit), or stop a server",
            )
        free = shutil.disk_usage(self.root).free
        if size_bytes > free:
            raise ModelError(
                f"needs {_gib(size_bytes)} on the disk, {_gib(free)} are free",
                where=self.root,
                remedy="free space, or set SILVA_CACHE to another folder",
            )

    def _give_up(self, most_bytes: int) -> list[Entry]:
        """Remove models, the least recently used first, down to so many bytes; those in use stay."""
        entries, gone = self.entries(), []
        total = sum(e.size_bytes for e in entries)
        for entry in reversed(entries):
            if total <= most_bytes:
                break
            if self.remove(entry.key):
                total -= entry.size_bytes
                gone.append(entry)
        return gone

    @contextmanager
    def _locked(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        with (self.root / f"{_LOCK}{key}").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        """Remove what ended processes left behind."""
        for path in self.root.iterdir():
            if path.name.startswith(_REMOVING):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(_BUILDING):
                lock = self.root / f"{_LOCK}{path.name.removeprefix(_BUILDING)}"
                with lock.open("wb") as file, suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)


def _entry(folder: Path) -> Entry | None:
    """The entry in a folder; None for what is no complete one of this format."""
    record = folder / RECORD
    try:
        raw: dict[str, Any] = read_json(record)
        if raw.pop("format", None) != FORMAT:
            return None
        size, used = int(raw.pop("size_bytes")), record.stat().st_mtime
        files = raw.pop("files", {})
        raw["source_state"] = tuple(raw["source_state"])
        if any((folder / name).stat().st_size != bytes_ for name, (bytes_, _) in files.items()):
            return None
        found = {name: str(digest) for name, (_, digest) in files.items()}
        return Entry(folder.name, folder, Origin(**raw), size, used, found)
    except (ModelError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Make files durable before the rename that makes them count."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
