"""Amounts as people write them: "1GiB", "512MB", "50ms", "2s"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

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
    return int(_amount(text, where, _BYTES, "size", "512MiB or 2GB"))


def parse_seconds(text: str, where: str) -> float:
    """Seconds: us, ms, s (also without a unit), min, h. ConfigError, as `parse_bytes`."""
    return _amount(text, where, _SECONDS, "time", "50ms or 2s")


def _amount(text: str, where: str, units: Mapping[str, float], kind: str, examples: str) -> float:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        what = f"{text[:40]!r} is not a {kind} such as {examples}"
        raise ConfigError(what, where=where, remedy="correct it")
    amount = float(match[1]) * units.get(match[2].lower(), math.nan)
    if not math.isfinite(amount):  # no such unit, or over 308 digits
        raise ConfigError(f"{text[:40]!r} is no {kind}", where=where, remedy=f"write {examples}")
    return amount
