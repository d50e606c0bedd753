"""Fields of a language model's `config.json`, each checked when it is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from silva.errors import ModelError
from silva.models.fields import is_number, read_json, refused, short

CONFIG, GENERATION = "config.json", "generation_config.json"
MOST_EOS = 64


def read_files(folder: Path) -> tuple[dict[str, Any], Fields]:
    """`config.json` of a Hugging Face directory, and `generation_config.json`, empty without one.

    Raises ModelError.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            "no config.json here",
            where=folder,
            remedy="give a Hugging Face directory (config.json and safetensors)",
        )
    generation = folder / GENERATION
    return read_json(path), Fields(
        read_json(generation) if generation.is_file() else {}, generation
    )


def shape_digest(shape: dict[str, Any]) -> str:
    """SHA-256 of a model's configuration as a table, the tokens that begin and end texts aside."""
    same = {**shape, "eos_ids": (), "bos_id": None}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


class Fields:
    """A table of a JSON file. A field that is null counts as one that is not there.

    Every method raises ModelError naming the field and the file.
    """

    def __init__(self, raw: Mapping[str, Any], where: object) -> None:
        self._raw = {name: value for name, value in raw.items() if value is not None}
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self._raw

    def size(self, name: str, highest: int, default: int | None = None, lowest: int = 1) -> int:
        """An integer from `lowest` to `highest`; without a default it has to be there."""
        if name not in self._raw and default is None:
            raise refused(name, "is missing", self.where)
        value = self._raw.get(name, default)
        if type(value) is not int or not lowest <= value <= highest:
            raise refused(name, f"{short(value)} is not in {lowest} to {highest}", self.where)
        return value

    def sizes(self, name: str, count: int, highest: int) -> tuple[int, ...]:
        """So many integers from 1 to `highest`."""
        value = self._raw.get(name)
        if (
            not isinstance(value, list)
            or len(value) != count
            or any(type(n) is not int or not 1 <= n <= highest for n in value)
        ):
            raise refused(
                name, f"{short(value)} is not {count} numbers in 1 to {highest}", self.where
            )
        return tuple(value)

    def real(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from `low` to `high`; without a default it has to be there."""
        if name not in self._raw and default is None:
            raise refused(name, "is missing", self.where)
        value = self._raw.get(name, default)
        if not is_number(value) or not low <= value <= high:
            raise refused(name, f"{short(value)} is not in {low:g} to {high:g}", self.where)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._raw.get(name, default)
        if not isinstance(value, bool):
            raise refused(name, f"{short(value)} is neither true nor false", self.where)
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """One of several words."""
        value = self._raw.get(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise refused(name, f"{short(value)} is not one of {', '.join(allowed)}", self.where)
        return value

    def table(self, name: str) -> Fields:
        """A table within the table, empty where there is none."""
        value = self._raw.get(name, {})
        if not isinstance(value, dict):
            raise refused(name, f"{short(value)} is no table", self.where)
        return Fields(value, self.where)

    def token(self, name: str, vocab_size: int) -> int | None:
        """One token or none; see `tokens` for those beyond the vocabulary."""
        if isinstance(self._raw.get(name), list):
            raise refused(name, f"{short(self._raw[name])} is no token", self.where)
        return next(iter(self.tokens(name, vocab_size)), None)

    def tokens(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One token, several, or none. What lies beyond the vocabulary can never come up and is
        dropped: files of tiny models keep the ids of the large ones."""
        value = self._raw.get(name, [])
        listed = value if isinstance(value, list) else [value]
        if len(listed) > MOST_EOS:
            raise refused(name, f"{len(listed)} tokens", self.where)
        if any(type(token) is not int for token in listed):
            raise refused(name, f"{short(value)} is no token", self.where)
        return tuple(dict.fromkeys(t for t in listed if 0 <= t < vocab_size))
