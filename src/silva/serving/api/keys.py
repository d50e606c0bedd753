"""API keys: who may ask, under which name, and for which model.

A keys file is TOML, one table a key:

    [alice]
    key = "sk-..."                  # or sha256 = "64 hexadecimal digits", so that no secret lies here
    model = "smollm2@c-17"          # optional: opens this model only
    cache = "512MiB"                # optional: most of each tier of a cache peer that it may fill
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silva.amounts import parse_bytes
from silva.config import read_toml
from silva.errors import ConfigError

MIN_KEY_CHARACTERS = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret."""

    name: str
    digest: str
    """SHA-256 of the secret, hexadecimal."""
    model: str = ""
    """The only model that it opens; empty: all."""
    cache_bytes: int | None = None
    """Most of each tier of a cache peer that its blocks may fill; None: what others may."""

    @property
    def namespace(self) -> str:
        """Whose cached blocks its requests share. The name stays when the secret is changed."""
        return self.name


ANYBODY = ApiKey("", "")
"""Who asks a server without keys."""


class KeyRing:
    """All keys. Without any, everybody may ask."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        """Raises ConfigError where two keys share a name or a secret."""
        self._keys = tuple(keys)
        for what in ("name", "digest"):
            seen = [getattr(key, what) for key in self._keys]
            if len(set(seen)) < len(seen):
                shown = "name" if what == "name" else "secret"
                raise ConfigError(f"two API keys have the same {shown}", remedy="give each its own")

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, secret: str) -> ApiKey | None:
        """The key of this secret. Takes as long whichever key matches, or none."""
        asked = _sha256(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, asked):
                found = key
        return found


def parse_key(text: str, where: object = "--api-key") -> ApiKey:
    """`NAME=SECRET`, as a flag gives it. Errors never show the secret."""
    name, equals, secret = text.partition("=")
    if not equals:
        raise ConfigError("an API key needs a name", where=where, remedy="write NAME=SECRET")
    return ApiKey(_checked_name(name, where), _digest_of(secret, where))


def read_keys(path: Path | str) -> tuple[ApiKey, ...]:
    """The keys of a file; raises ConfigError that names the table."""
    keys = tuple(_from_table(name, table, path) for name, table in read_toml(path).items())
    if not keys:  # an empty file must not open the server to everybody
        raise ConfigError("has no keys", where=path, remedy='write [NAME] and key = "..." below it')
    return keys


def _from_table(name: str, table: Any, path: Path | str) -> ApiKey:
    where = f"{path}: {_checked_name(name, path)}"
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise ConfigError("is not a table of texts", where=where, remedy='write key = "..."')
    unknown = sorted(set(table) - {"key", "sha256", "model", "cache"})
    if unknown:
        what = f"unknown field {unknown[0][:60]!r}"
        raise ConfigError(what, where=where, remedy="known: key, sha256, model, cache")
    if ("key" in table) == ("sha256" in table):
        raise ConfigError("needs either key or sha256", where=where)
    model = table.get("model", "")
    cache = parse_bytes(table["cache"], f"{where}: cache") if "cache" in table else None
    if "key" in table:
        return ApiKey(name, _digest_of(table["key"], where), model, cache)
    if not _DIGEST.fullmatch(table["sha256"]):
        remedy = "write the 64 hexadecimal digits of the key's SHA-256"
        raise ConfigError("sha256 is not a digest", where=where, remedy=remedy)
    return ApiKey(name, table["sha256"], model, cache)


def _checked_name(name: str, where: object) -> str:
    if not _NAME.fullmatch(name):
        remedy = "use up to 64 letters, digits, '.', '_', '-'"
        raise ConfigError(f"{name[:60]!r} is not a name for a key", where=where, remedy=remedy)
    return name


def _digest_of(secret: str, where: object) -> str:
    proper = secret.isascii() and secret.isprintable() and " " not in secret
    if len(secret) < MIN_KEY_CHARACTERS or not proper:
        remedy = f"use at least {MIN_KEY_CHARACTERS} visible ASCII characters"
        raise ConfigError("the key is too short or not printable", where=where, remedy=remedy)
    return _sha256(secret)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
