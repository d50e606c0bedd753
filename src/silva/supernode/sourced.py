"""Spec files whose every figure says where it comes from.

    memory_gbps = { value = 1600.0, source = "P, section 3" }
    gemm = { rows = [[4, 7168, 0.794]], columns = ["groups", "M", "share"], source = "P table 10" }

Text and truth values stand by themselves: they name things and choices, they measure nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Generic, TypeVar

from silva.config import build, read_toml, setting
from silva.errors import ConfigError

Spec = TypeVar("Spec")

SPECS = Path(str(resources.files("silva"))) / "supernode" / "specs"
"""The spec files that silva brings along."""

_FIGURE, _TABLE = {"value", "source"}, {"rows", "columns", "source"}
_SMALLEST = 1e-12


@dataclasses.dataclass(frozen=True)
class Sourced(Generic[Spec]):
    """A spec, and the source of each of its figures by dotted name."""

    spec: Spec
    sources: Mapping[str, str]
    path: Path


def positive() -> Any:
    """A field that has to be given and to be above 0."""
    return setting(dataclasses.MISSING, help="", low=_SMALLEST)


def at_least(low: float, high: float | None = None) -> Any:
    """A field that has to be given, from `low` to `high`."""
    return setting(dataclasses.MISSING, help="", low=low, high=high)


def choice(*choices: str) -> Any:
    """A text that has to be given and to be one of `choices`."""
    return setting(dataclasses.MISSING, help="", choices=choices)


def spec_file(name: str, kind: str = "") -> Path:
    """The file of a spec: a path that ends in .toml, or a name among those of `kind`.

    Raises ConfigError for a name that nothing has.
    """
    if name.endswith(".toml"):
        return Path(name)
    path = SPECS / kind / f"{name}.toml"
    if path.is_file() and path.parent == SPECS / kind:
        return path
    known = spec_names(kind)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    what = f"nothing is known of {name!r:.60}"
    remedy = f"{hint}known: {', '.join(known)}; or name a .toml file"
    raise ConfigError(what, where=kind or "hardware", remedy=remedy)


def spec_names(kind: str = "") -> list[str]:
    """Names of the specs of one kind that silva brings along, sorted."""
    return sorted(path.stem for path in (SPECS / kind).glob("*.toml"))


def read_sourced(cls: type[Spec], path: Path) -> Sourced[Spec]:
    """The spec in a file.

    Raises ConfigError, which names file and figure, for a figure that is missing, of the wrong
    type, out of range or without a source.
    """
    sources: dict[str, str] = {}
    plain = _plain(read_toml(path), "", path, sources)
    return Sourced(build(cls, plain, path), sources, path)


def _plain(
    table: Mapping[str, Any], prefix: str, path: Path, sources: dict[str, str]
) -> dict[str, Any]:
    """`table` with each figure in the place of its value and source."""
    plain: dict[str, Any] = {}
    for name, value in table.items():
        place = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            if not isinstance(value, (str, bool)):
                raise _unsourced(place, path)
            plain[name] = value
        elif value.keys() & (_FIGURE | _TABLE):
            plain[name] = _figure(value, place, path)
            sources[place] = str(value["source"])
        else:
            plain[name] = _plain(value, f"{place}.", path, sources)
    return plain


def _figure(value: Mapping[str, Any], place: str, path: Path) -> Any:
    if not str(value.get("source", "")).strip():
        raise _unsourced(place, path)
    if value.keys() == _FIGURE:
        return value["value"]
    if value.keys() == _TABLE:
        return _rows(value, place, path)
    wrong = ", ".join(sorted(value.keys() ^ _FIGURE))
    what = f"a figure has value and source, a table rows, columns and source, not {wrong}"
    raise ConfigError(what, where=f"{path}: {place}")


def _rows(value: Mapping[str, Any], place: str, path: Path) -> list[Any]:
    rows, columns = value["rows"], value["columns"]
    if not (isinstance(rows, list) and isinstance(columns, list) and rows):
        raise ConfigError("a table needs lists of rows and columns", where=f"{path}: {place}")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            what = f"row {number + 1} has not one figure for each of {len(columns)} columns"
            raise ConfigError(what, where=f"{path}: {place}")
    return rows


def _unsourced(place: str, path: Path) -> ConfigError:
    remedy = 'write { value = ..., source = "..." }'
    return ConfigError("a figure without its source", where=f"{path}: {place}", remedy=remedy)
