"""Fields of JSON objects from outside, each through a check: what a version file may hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from silva.adapters.objects import is_digest
from silva.errors import ForestError

MAX_TEXT = 256
WORD = re.compile(r"[a-z0-9_]{1,32}")
_MAX_SETTINGS_DEPTH = 4

T = TypeVar("T")


class Reader:
    """Takes fields out of a JSON object, each through a check, and refuses what is left over."""

    def __init__(self, plain: object, name: str, where: object) -> None:
        self.name, self.where = name, where
        if not isinstance(plain, dict):
            raise ForestError(f"{name[:80]!r} must be a JSON object", where=where)
        self.plain, self.left = plain, set(plain)

    def get(self, key: str, check: Callable[[Any], T]) -> T:
        if key not in self.plain:
            raise self.error(key, "is missing")
        self.left.discard(key)
        try:
            return check(self.plain[key])
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def reader(self, key: str) -> Reader:
        return Reader(self.get(key, anything), key, self.where)

    def finish(self) -> None:
        if self.left:
            raise self.error(min(map(str, self.left))[:80], "is unknown")

    def error(self, key: str, problem: str) -> ForestError:
        return ForestError(f"{self.name[:80]!r}: field {key!r} {problem}", where=self.where)


def named(check: Callable[[str], str], name: str, where: object) -> str:
    try:
        return check(name)
    except ForestError as error:
        raise ForestError(error.what, where=where) from error


def anything(value: Any) -> Any:
    return value


def integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be an integer from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high or math.isnan(value):
            raise ValueError(f"must be a number from {low} to {high}")
        return float(value)

    return check


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("must be true or false")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"must be text of at most {MAX_TEXT}")
    return value


def words(value: Any) -> tuple[str, ...]:
    words = listed(64)(value)
    if not words or not all(isinstance(w, str) and WORD.fullmatch(w) for w in words):
        raise ValueError("must be words of a-z, 0-9, '_'")
    if len(set(words)) != len(words):
        raise ValueError("names a module twice")
    return tuple(words)


def digest(value: Any) -> str:
    if not is_digest(value):
        raise ValueError("must be a SHA-256 in hexadecimal")
    return str(value)


def listed(limit: int) -> Callable[[Any], list[Any]]:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple) or len(value) > limit:
            raise ValueError(f"must be a list of at most {limit}")
        return list(value)

    return check


def mapping(limit: int) -> Callable[[Any], dict[str, Any]]:
    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > limit:
            raise ValueError(f"must be an object of at most {limit}")
        return value

    return check


def tables(value: Any, depth: int = _MAX_SETTINGS_DEPTH) -> dict[str, Any]:
    """Nested tables of numbers, truth values, texts and lists of these."""
    table = mapping(64)(value)
    for name, inner in table.items():
        if not isinstance(name, str) or not WORD.fullmatch(name):
            raise ValueError("must have names of a-z, 0-9, '_'")
        if isinstance(inner, dict) and depth > 1:
            tables(inner, depth - 1)
            continue
        for entry in inner if isinstance(inner, list) and len(inner) <= 64 else [inner]:
            if not fits(scalar, entry):
                raise ValueError(f"must have simple values of short texts ({name})")
    return table


def scalar(value: Any) -> None:
    if isinstance(value, str):
        text(value)
    elif not isinstance(value, bool):
        number(-1e300, 1e300)(value)


def optional(check: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else check(value)


def fits(check: Callable[[Any], object], value: Any) -> bool:
    try:
        check(value)
    except ValueError:
        return False
    return True
