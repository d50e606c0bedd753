"""The name of a partition with its numbers, as users write it: `sc_dir(2,3.0,groups=6)`.

    spec      = name [ "(" [ argument { "," argument } ] ")" ]
    argument  = [ key "=" ] value          value = number or word

Nothing is evaluated: a value is matched against a number or a word and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from silva.errors import PartitionError

Value = int | float | str | tuple[str, ...]

_LONGEST = 500
_SPEC = re.compile(r"\s*([a-z_]{1,40})\s*(?:\((.*)\))?\s*", re.ASCII)
_ARGUMENT = re.compile(r"\s*(?:([a-z_]{1,40})\s*=\s*)?([\w.+-]{1,64})\s*", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"(?:[0-9]{1,15}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Parameter:
    """One argument: its kind decides how the text is read and what range is allowed."""

    name: str
    kind: str
    default: Value | None = None


def _count(name: str, default: int | None = None) -> Parameter:
    return Parameter(name, "count", default)


_ALPHA = Parameter("alpha", "alpha")

KNOWN: dict[str, tuple[Parameter, ...]] = {
    "gl_dir": (_ALPHA,),
    "sc_dir": (_count("n_super"), _ALPHA, _count("groups", 0)),
    "patho_shards": (_count("c"),),
    "patho_grouped": (_count("c"),),
    "domain_dir": (_ALPHA,),
    "planted": (_count("groups"), Parameter("styles", "words", ())),
    "by_folder": (),
    "by_column": (Parameter("column", "word"),),
}
"""Every partition with its parameters; the ones without a default must be given."""


def usage(name: str) -> str:
    """How to write partition `name`, e.g. `sc_dir(n_super,alpha,groups=0)`."""
    shown = {"count": "{0}={1}", "words": "{0}..."}
    parts = [
        p.name if p.default is None else shown[p.kind].format(p.name, p.default)
        for p in KNOWN[name]
    ]
    return f"{name}({','.join(parts)})" if parts else name


def known_partitions() -> str:
    """One line that lists every partition, for messages and help."""
    return ", ".join(usage(name) for name in KNOWN)


@dataclass(frozen=True)
class PartitionSpec:
    """A parsed spec: every parameter has a value. `str()` gives the shortest equal spec."""

    name: str
    values: dict[str, Value] = field(default_factory=dict)

    def count(self, name: str) -> int:
        value = self.values[name]
        assert isinstance(value, int)
        return value

    @property
    def alpha(self) -> float:
        value = self.values["alpha"]
        assert isinstance(value, float)
        return value

    @property
    def column(self) -> str:
        """The column that names the clients; "client" for by_folder."""
        return str(self.values.get("column", "client"))

    @property
    def styles(self) -> tuple[str, ...]:
        value = self.values.get("styles", ())
        assert isinstance(value, tuple)
        return value

    def __str__(self) -> str:
        parts: list[str] = []
        for parameter in KNOWN[self.name]:
            value = self.values[parameter.name]
            if parameter.kind == "words":
                parts.extend(value if isinstance(value, tuple) else ())
            elif parameter.default is None:
                parts.append(str(value))
            elif value != parameter.default:
                parts.append(f"{parameter.name}={value}")
        return f"{self.name}({','.join(parts)})" if parts else self.name


def parse_spec(text: str) -> PartitionSpec:
    """Read a partition's name and numbers.

    Raises PartitionError, which shows the spec and the known ones, for an unknown name, a missing,
    unknown, repeated or malformed argument, a count outside [1, 1000000] (0 where it means
    "none"), or an alpha outside [0.001, 1000000].
    """
    match = _SPEC.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise _refuse(text, "this is not name(value,key=value)")
    name, inside = match.group(1), match.group(2)
    if name not in KNOWN:
        raise _refuse(text, f"no partition is called {name!r}")
    given = _bind(text, name, inside)
    values: dict[str, Value] = {}
    for parameter in KNOWN[name]:
        words = given.get(parameter.name)
        if words is not None:
            values[parameter.name] = _read(text, parameter, words)
        elif parameter.default is not None:
            values[parameter.name] = parameter.default
        else:
            raise _refuse(text, f"{parameter.name} is missing in {usage(name)}")
    return PartitionSpec(name, values)


def _bind(text: str, name: str, inside: str | None) -> dict[str, list[str]]:
    """Which words belong to which parameter; a last parameter of kind "words" takes the rest."""
    parameters = KNOWN[name]
    by_name = {p.name: p for p in parameters}
    given: dict[str, list[str]] = {}
    named = False
    arguments = inside.split(",") if inside is not None and inside.strip() else []
    for position, argument in enumerate(arguments):
        match = _ARGUMENT.fullmatch(argument)
        if match is None:
            raise _refuse(text, f"{argument.strip()!r} is neither a value nor key=value")
        key, word = match.group(1), match.group(2)
        if key is None:
            if named:
                raise _refuse(text, f"{word!r} without a key follows an argument with one")
            key = _at(parameters, position)
        else:
            named = True
        if key not in by_name:
            raise _refuse(text, f"{argument.strip()!r} is one argument too many for {usage(name)}")
        if key in given and by_name[key].kind != "words":
            raise _refuse(text, f"{key} is given twice")
        given.setdefault(key, []).append(word)
    return given


def _at(parameters: tuple[Parameter, ...], position: int) -> str:
    if position < len(parameters):
        return parameters[position].name
    return parameters[-1].name if parameters and parameters[-1].kind == "words" else ""


def _read(text: str, parameter: Parameter, words: list[str]) -> Value:
    word = words[0]
    if parameter.kind == "words":
        return tuple(words)
    if parameter.kind == "word":
        return word
    if parameter.kind == "alpha":
        if not _NUMBER.fullmatch(word) or not 1e-3 <= float(word) <= 1e6:
            raise _refuse(text, f"{parameter.name} is {word!r}, not a number in [0.001, 1000000]")
        return float(word)
    low = 1 if parameter.default is None else 0
    if not _INTEGER.fullmatch(word) or not low <= int(word) <= 1_000_000:
        raise _refuse(text, f"{parameter.name} is {word!r}, not a whole number in [{low}, 1000000]")
    return int(word)


def _refuse(text: str, why: str) -> PartitionError:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return PartitionError(
        why, where=f"partition {shown!r}", remedy=f"known are {known_partitions()}"
    )
