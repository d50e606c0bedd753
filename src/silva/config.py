"""One tree of frozen dataclasses from one TOML file; flags override; mistakes name the field.

    config = build(FederationConfig, overlay(read_toml(path), {"local.lr": 1e-3}), where=path)

Every error is a ConfigError that names the field's path, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from silva.errors import ConfigError

Config = TypeVar("Config")

MAX_TOML_BYTES = 1 << 20
"""Larger configuration files are refused before they are parsed."""

_SHOWN_CHARACTERS = 60


def setting(
    default: Any,
    *,
    help: str,  # noqa: A002  (the word typer and argparse use)
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    empty: bool = False,
) -> Any:
    """A dataclass field with its allowed range [low, high] or choices, and a line of help.

    In a tuple they hold for every entry; a tuple with choices has no entry twice, and at least one
    unless it may be `empty`.
    """
    return field(
        default=default,
        metadata={"help": help, "low": low, "high": high, "choices": choices, "empty": empty},
    )


def build(cls: type[Config], mapping: Mapping[str, Any], where: object = "") -> Config:
    """A `cls` (a dataclass, possibly nested) with the values of `mapping`, defaults for the rest.

    `where` says in errors where the mapping comes from. Raises ConfigError for an unknown or
    missing field, a value of the wrong type, out of range or not among the choices. An integer is
    accepted for a float, a list for a tuple; nothing else is converted.
    """
    return _build(cls, mapping, _Place(str(where), known=tuple(paths(cls))))


def read_toml(path: Path | str, max_bytes: int = MAX_TOML_BYTES) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError names the line of a mistake."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError("no such file", where=path, remedy="name a TOML file")
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ConfigError(what, where=path, remedy="check the file") from error
    if len(content) > max_bytes:
        raise ConfigError(f"larger than {max_bytes} bytes", where=path, remedy="shorten it")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"line {line} is not UTF-8 text"
        raise ConfigError(what, where=path, remedy="store the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # bad TOML, a huge number, endless nesting
        what = f"not valid TOML: {error}"
        raise ConfigError(what, where=path, remedy="correct it there") from error


def overlay(base: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with flags such as {"local.lr": 1e-3} put in.

    A flag of value None was not given. Raises ConfigError where `base` has a value for its table.
    """
    merged = _copied(base)
    for name, value in flags.items():
        if value is None:
            continue
        *tables, last = name.split(".")
        table = merged
        for step in tables:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{step} is not a table", where=name, remedy=f"write [{step}]")
        table[last] = value
    return merged


def as_plain(config: Any) -> dict[str, Any]:
    """Plain JSON types; `build(type(config), as_plain(config))` equals `config`."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def paths(cls: type[Any]) -> Iterator[str]:
    """Dotted names of all values that `cls` holds, in order: "rounds", "local.lr", ..."""
    hints = _hints(cls)
    for each in dataclasses.fields(cls):
        kind = hints[each.name]
        if dataclasses.is_dataclass(kind):
            yield from (f"{each.name}.{inner}" for inner in paths(typing.cast(type[Any], kind)))
        else:
            yield each.name


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where in the tree a value stands; `known` lists every path of the whole tree."""

    source: str
    known: tuple[str, ...]
    path: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.path) if part)

    def at(self, name: str) -> _Place:
        return dataclasses.replace(self, path=f"{self.path}.{name}" if self.path else name)

    def error(self, what: str, remedy: str) -> ConfigError:
        return ConfigError(what, where=self, remedy=remedy)


def _build(cls: type[Config], mapping: Any, place: _Place) -> Config:
    if not isinstance(mapping, Mapping):
        raise place.error(f"{_shown(mapping)} is not a table", f"write [{place.path}] and fields")
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    for name in mapping:
        if name not in fields:
            raise _unknown(str(name), list(fields), place)
    hints = _hints(cls)
    values = {}
    for name, each in fields.items():
        if name in mapping:
            values[name] = _value(hints[name], mapping[name], each.metadata, place.at(name))
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise place.at(name).error("is missing", "give it a value")
    return cls(**values)


def _unknown(name: str, siblings: Sequence[str], place: _Place) -> ConfigError:
    """Suggests a like-named sibling, else a field of that name elsewhere in the tree."""
    close = difflib.get_close_matches(name, siblings, n=1)
    near = [place.at(s).path for s in close] or [
        path for path in place.known if path.rpartition(".")[2] == name
    ]
    remedy = f"did you mean {near[0]}?" if near else f"known here: {', '.join(siblings)}"
    return place.at(_clipped(name)).error("unknown field", remedy)


def _value(kind: Any, value: Any, rules: Mapping[str, Any], place: _Place) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type[Any], kind), value, place)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _optional(kind, value, rules, place)
    if origin is tuple:
        return _tuple(kind, value, rules, place)
    if kind not in _SCALARS:
        raise TypeError(f"{place}: silva.config does not know fields of type {kind}")
    checked = _SCALARS[kind](value, place)
    _check_range(checked, rules, place)
    _check_choice(checked, rules, place)
    return checked


def _optional(kind: Any, value: Any, rules: Mapping[str, Any], place: _Place) -> Any:
    """`X | None`: None stands for itself, anything else must be an X."""
    if value is None:
        return None
    (inner,) = (k for k in typing.get_args(kind) if k is not types.NoneType)
    return _value(inner, value, rules, place)


def _tuple(kind: Any, value: Any, rules: Mapping[str, Any], place: _Place) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise place.error(f"{_shown(value)} is not a list", "write [..., ...]")
    inner, ellipsis = typing.get_args(kind)
    if ellipsis is not Ellipsis:
        raise TypeError(f"{place}: silva.config knows tuples of one type only, not {kind}")
    entries = tuple(_value(inner, v, rules, place.at(str(i))) for i, v in enumerate(value))
    choices = rules.get("choices")
    missing = not entries and not rules.get("empty")
    if choices and (missing or len(set(entries)) < len(entries)):
        wrong = "is empty" if missing else f"{_shown(list(entries))} names one twice"
        raise place.error(wrong, f"choose one or more of {', '.join(choices)}")
    return entries


def _bool(value: Any, place: _Place) -> bool:
    if isinstance(value, bool):
        return value
    raise place.error(f"{_shown(value)} is not a truth value", "write true or false")


def _int(value: Any, place: _Place) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise place.error(f"{_shown(value)} is not a whole number", "write one such as 3")


def _float(value: Any, place: _Place) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise place.error(f"{_shown(value)} is not finite", "write a number such as 0.5")
    raise place.error(f"{_shown(value)} is not a number", "write one such as 0.5")


def _str(value: Any, place: _Place) -> str:
    if isinstance(value, str):
        return value
    raise place.error(f"{_shown(value)} is not text", 'write it in quotes, such as "cosine"')


_SCALARS: dict[Any, Callable[[Any, _Place], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
}


def _check_range(value: Any, rules: Mapping[str, Any], place: _Place) -> None:
    low, high = rules.get("low"), rules.get("high")
    if (low is None or value >= low) and (high is None or value <= high):
        return
    allowed = f"{'any' if low is None else low} to {'any' if high is None else high}"
    raise place.error(f"{_shown(value)} is out of range", f"allowed: {allowed}")


def _check_choice(value: Any, rules: Mapping[str, Any], place: _Place) -> None:
    choices = rules.get("choices")
    if not choices or value in choices:
        return
    close = difflib.get_close_matches(value, choices, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise place.error(f"{_shown(value)} is not allowed", f"{hint}allowed: {', '.join(choices)}")


def _hints(cls: type[Any]) -> dict[str, Any]:
    """The evaluated types of a dataclass's fields (annotations are text in silva)."""
    return typing.get_type_hints(cls)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_plain(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _copied(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in mapping.items()}


def _shown(value: Any) -> str:
    """`repr` of a value from outside, on one line of bounded length."""
    try:
        return _clipped(repr(value))
    except (ValueError, RecursionError):  # an integer of thousands of digits, endless nesting
        return f"a huge {type(value).__name__}"


def _clipped(text: str) -> str:
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
