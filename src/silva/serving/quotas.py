"""How much of each tier of a cache peer single API keys may fill, as people write it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from silva.amounts import parse_bytes
from silva.errors import ConfigError
from silva.serving.api.keys import ApiKey
from silva.serving.config import KvConfig

WHERE = "serve.kv.quotas"


def parse_quotas(texts: Iterable[str]) -> dict[str, int]:
    """Bytes by namespace, of `NAME=SIZE` each. ConfigError for another form or a name twice."""
    found: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.partition("=")
        if not equals or not name:
            what = f"{text[:60]!r} is no quota"
            raise ConfigError(what, where=WHERE, remedy="write NAME=SIZE, as alice=512MiB")
        if name in found:
            what = f"{name[:60]!r} has two quotas"
            raise ConfigError(what, where=WHERE, remedy="leave one, here or in the keys file")
        found[name] = parse_bytes(size, WHERE)
    return found


def with_quotas(kv: KvConfig, keys: Iterable[ApiKey]) -> KvConfig:
    """The settings with the quotas that the keys bring; all are right. Raises ConfigError."""
    brought = [f"{key.namespace}={key.cache_bytes}" for key in keys if key.cache_bytes is not None]
    found = replace(kv, quotas=(*kv.quotas, *brought))
    parse_quotas(found.quotas)
    return found
