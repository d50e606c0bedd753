"""Amounts as people write them: "1GiB", "512MB", "50ms", "2s"."""

from __future__ import annotations

import re

from silva.errors import ConfigError

_BYTES = {
    "": 1,
    "b": 1,
    **{
        f"{letter}{end}": size
        for power, letter in enumerate("kmgt", 1)
        for end, size in (("", 1024**power), ("ib", 1024**power), ("b", 1000**power))
    },
}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_bytes(text: str, where: str) -> int:
    """Bytes: KiB, MiB, GiB, TiB of 1024, KB, MB, GB, TB of 1000, a letter alone as of 1024.

    `where` names the flag in the ConfigError for anything else.
    """
    number, unit = _split(text, where, "a size such as 512MiB or 2GB")
    if unit not in _BYTES:
        raise ConfigError(f"{text[:40]!r} is no size", where=where, remedy="write 512MiB or 2GB")
    return int(number * _BYTES[unit])


def parse_seconds(text: str, where: str) -> float:
    """Seconds: us, ms, s (also without a unit), min, h. ConfigError, as `parse_bytes`."""
    number, unit = _split(text, where, "a time such as 50ms or 2s")
    if unit not in _SECONDS:
        raise ConfigError(f"{text[:40]!r} is no time", where=where, remedy="write 50ms or 2s")
    return number * _SECONDS[unit]


def _split(text: str, where: str, wanted: str) -> tuple[float, str]:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text[:40]!r} is not {wanted}", where=where, remedy="correct it")
    return float(match[1]), match[2].lower()
