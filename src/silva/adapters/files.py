"""Files that are whole or absent, and JSON from strangers."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from silva.errors import ForestError

TEMPORARY = ".tmp-"
"""Prefix of files that were never finished; nothing reads them."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is found whole or not at all, also after a power cut.

    Raises ForestError when the disk refuses; no temporary file stays behind then.
    """
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise _refused(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_limited(path: Path, limit_bytes: int, remedy: str = "") -> bytes:
    """All bytes of a regular file of at most `limit_bytes`; ForestError otherwise."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ForestError("is not a file", where=path, remedy=remedy)
            if status.st_size > limit_bytes:
                raise ForestError(
                    f"has {status.st_size} bytes, more than {limit_bytes}",
                    where=path,
                    remedy=remedy,
                )
            return file.read(limit_bytes)
    except FileNotFoundError as error:
        raise ForestError("is missing", where=path, remedy=remedy) from error
    except OSError as error:
        raise ForestError(f"cannot be read: {error.strerror}", where=path, remedy=remedy) from error


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def fresh_folder(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A new folder to fill; it appears under `path` when the block ends without an error.

    scratch: a folder on the same disk in which it is filled; None: the one that holds `path`. A
    process that is killed leaves what it was filling there, under a hidden name.

    Raises ForestError when `path` exists and is not an empty folder.
    """
    _refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        building = (scratch or path.parent) / f"{TEMPORARY}{secrets.token_hex(6)}"
        building.mkdir()
    except OSError as error:
        raise _refused(error, path) from error
    try:
        yield building
        # Someone may have filled the place in the meantime: replacing a non-empty folder fails.
        os.replace(building, path)
        sync(path.parent)
    except OSError as error:
        raise _refused(error, path) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _refuse_existing(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ForestError("exists already", where=path, remedy="choose another folder or remove it")


def _refused(error: OSError, path: Path) -> ForestError:
    return ForestError(
        f"cannot be written: {error.strerror or error}",
        where=path,
        remedy="free space or mend the permissions; nothing was changed",
    )


def parse_json(data: bytes, where: object) -> Any:
    """JSON in UTF-8 without repeated keys, NaN or infinity; ForestError for anything else."""
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ForestError(f"is not valid JSON: {reason}", where=where) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
