"""The files of a forest beside its objects: `current`, `versions/` and the lock of writers."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from silva.adapters.files import read_limited, write_atomic
from silva.adapters.manifest import MAX_MANIFEST_BYTES, MAX_VERSION, Manifest
from silva.adapters.names import check_client_name
from silva.adapters.objects import ObjectStore
from silva.errors import ForestError

OBJECTS = "objects"
"""The folder of a forest's objects."""
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ROLL_BACK = "roll back with `silva forest rollback`, or restore the file from a copy"


class Ledger:
    """Reads and writes versions. Writers hold `lock`; readers need none, every file is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ObjectStore(folder / OBJECTS)
        self._current, self._removing = folder / "current", folder / "removing"
        self._versions = folder / "versions"

    def make(self) -> None:
        """Make the folders of a new forest."""
        self.store.folder.mkdir()
        self._versions.mkdir()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers out, in this process and others; the system frees it on a crash."""
        self._expect_forest()
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def version_file(self, number: int) -> Path:
        return self._versions / f"{number}.json"

    def numbers(self) -> list[int]:
        """Numbers of all versions on disk, ascending; some may be damaged."""
        self._expect_forest()
        stems = (p.stem for p in self._versions.glob("*.json"))
        return sorted(int(stem) for stem in stems if _NUMBER.fullmatch(stem))

    def read(self, number: int) -> Manifest:
        """One version; ForestError when it is missing or damaged."""
        path = self.version_file(number)
        manifest = Manifest.from_bytes(read_limited(path, MAX_MANIFEST_BYTES, _ROLL_BACK), path)
        if manifest.version != number:
            raise ForestError(f"is version {manifest.version}", where=path, remedy=_ROLL_BACK)
        return manifest

    def current(self) -> Manifest:
        """The live version; ForestError when it is missing or damaged."""
        self._expect_forest()
        number, checksum = _read_line(self._current)
        if not _NUMBER.fullmatch(number):
            raise ForestError("does not name a version", where=self._current, remedy=_ROLL_BACK)
        manifest = self.read(int(number))
        # A flipped bit in the number would name another version that is fine in itself.
        if manifest.checksum() != checksum:
            raise ForestError("is damaged", where=self._current, remedy=_ROLL_BACK)
        return manifest

    def next_number(self) -> int:
        number = max(self.numbers(), default=0) + 1
        if number > MAX_VERSION:
            raise ForestError("has no version number left", where=self.folder)
        return number

    def write(self, manifest: Manifest) -> None:
        """Write a version, which is not live yet."""
        write_atomic(self.version_file(manifest.version), manifest.to_bytes())

    def switch(self, manifest: Manifest) -> None:
        """Make a version live, atomically."""
        _write_line(self._current, str(manifest.version), manifest.checksum())

    def erase(self, number: int) -> None:
        self.version_file(number).unlink(missing_ok=True)

    def begin_removal(self, client: str) -> None:
        """Note whose removal is under way, so that an interrupted one can be completed."""
        _write_line(self._removing, client, hashlib.sha256(client.encode()).hexdigest())

    def removal(self) -> str | None:
        """The client whose removal was begun and not ended."""
        if not self._removing.exists():
            return None
        client, checksum = _read_line(self._removing)
        # Never remove somebody else because a byte flipped.
        if hashlib.sha256(client.encode()).hexdigest() != checksum:
            remedy = "delete this file and run `silva forest remove` again"
            raise ForestError("is damaged", where=self._removing, remedy=remedy)
        return check_client_name(client)

    def end_removal(self) -> None:
        self._removing.unlink(missing_ok=True)

    def _expect_forest(self) -> None:
        # os.path.isdir says no to names that the system refuses; Path.is_dir raises.
        if not (os.path.isdir(self._versions) and os.path.isdir(self.store.folder)):
            remedy = "`silva tune ... --out` makes one"
            raise ForestError("is not a forest", where=self.folder, remedy=remedy)


def _write_line(path: Path, word: str, checksum: str) -> None:
    write_atomic(path, f"{word} {checksum}\n".encode())


def _read_line(path: Path) -> tuple[str, str]:
    """The word of a one-line file, and the checksum that guards it."""
    data = read_limited(path, 256, _ROLL_BACK)
    match = re.fullmatch(rb"([a-z0-9._-]{1,64}) ([0-9a-f]{64})\n", data)
    if not match:
        raise ForestError("is damaged", where=path, remedy=_ROLL_BACK)
    return match[1].decode(), match[2].decode()
