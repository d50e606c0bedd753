"""`--set name=value`, which reaches every setting of a recipe."""

from __future__ import annotations

from typing import Any


def assignment(text: str) -> tuple[str, Any]:
    """ "federation.local.lr=1e-3" as a name and a TOML value; bare words are strings."""
    import tomllib

    from silva.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{text!r} is no setting", remedy="write --set name.of.field=value")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return name, value
