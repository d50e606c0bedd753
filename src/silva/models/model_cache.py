"""The model cache on disk: whole models, ready to be mapped, the least recently used given up first.

Models are found whole or not at all: they are built in a hidden folder and renamed. Whoever builds
one holds a lock that the system releases when the process ends, however it ends; what it leaves
behind is swept up by the next. Caching at the granularity of whole models follows CloudMatrix-Infer
(arXiv 2506.12708, section 4.7): one copy on a machine serves all processes that map it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from silva.errors import ModelError
from silva.models.cache_folder import cache_folder
from silva.models.fields import first_line, read_json

GIB = 1 << 30
LIMIT_BYTES = 64 * GIB
RECORD = "silva.json"
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


class ModelCache:
    """Models in one folder. Any number of processes may use it at once."""

    def __init__(self, root: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        """`root`: by default `models` in silva's cache folder; it may not exist yet."""
        self.root = cache_folder() / "models" if root is None else root
        self.limit_bytes = limit_bytes

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
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with self._locked(key, waiting):
                found = self.get(key)
                if found is not None:
                    return found
                self._make_room(size_bytes)
                return self._build(key, origin, build)
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
            size = sum(f.stat().st_size for f in building.iterdir())
            record = {"format": FORMAT, "size_bytes": size, **asdict(origin)}
            (building / RECORD).write_text(json.dumps(record, indent=2) + "\n")
            _sync(building)
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or get had found it
            os.replace(building, folder)
            _sync_folder(self.root)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return folder

    def _make_room(self, size_bytes: int) -> None:
        """Give up models, the least recently used first, until `size_bytes` fit the limit."""
        entries = self.entries()
        total = sum(e.size_bytes for e in entries)
        for entry in reversed(entries):
            if total + size_bytes <= self.limit_bytes:
                break
            if self.remove(entry.key):
                total -= entry.size_bytes
        if total + size_bytes > self.limit_bytes:
            raise ModelError(
                f"{_gib(size_bytes)} more do not fit into {_gib(self.limit_bytes)}, {_gib(total)} "
                "of which are in use",
                where=self.root,
                remedy="raise the limit (--limit), or stop a server",
            )
        free = shutil.disk_usage(self.root).free
        if size_bytes > free:
            raise ModelError(
                f"needs {_gib(size_bytes)} on the disk, {_gib(free)} are free",
                where=self.root,
                remedy="free space, or set SILVA_CACHE to another folder",
            )

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
        raw["source_state"] = tuple(raw["source_state"])
        return Entry(folder.name, folder, Origin(**raw), size, used)
    except (ModelError, OSError, KeyError, TypeError, ValueError):
        return None


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
