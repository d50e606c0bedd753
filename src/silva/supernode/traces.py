"""Traffic: when requests come, how long they are, and what they share; from files of two formats.

Azure's CSV (TIMESTAMP, ContextTokens, GeneratedTokens; one row a request) and Mooncake's JSONL
(timestamp in ms, input_length, output_length, hash_ids of blocks of 512 tokens).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silva.errors import DataError

MAX_REQUESTS = 20_000_000
MAX_LINE = 1 << 20
MAX_TOKENS = 10_000_000
MOONCAKE_BLOCK = 512
_CHUNK = 1 << 14
"""Arrivals that are plain Python numbers at a time; the rest of the traffic stays in arrays."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Parsed = tuple[float, int, int, tuple[int, ...]]
"""Seconds, tokens of prompt and answer, and what names the prompt's blocks."""


@dataclass(frozen=True)
class Traffic:
    """Requests in order of arrival; arrays of one length. The first comes at 0."""

    arrival_s: NDArray[np.float64]
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    shared: tuple[tuple[int, ...], ...] = ()
    """Names of each prompt's full blocks: two prompts share what their lists begin with alike."""
    block_tokens: int = MOONCAKE_BLOCK

    def __len__(self) -> int:
        return len(self.arrival_s)

    def first(self, count: int) -> Traffic:
        """The first requests of it, so many."""
        return replace(
            self,
            arrival_s=self.arrival_s[:count],
            prompt=self.prompt[:count],
            output=self.output[:count],
            shared=self.shared[:count],
        )

    def arrivals(self) -> Iterator[tuple[int, float, int]]:
        """Number, time and tokens of the answer of each request, and -1 for ever after the last."""
        for start in range(0, len(self), _CHUNK):
            times = self.arrival_s[start : start + _CHUNK].tolist()
            outputs = self.output[start : start + _CHUNK].tolist()
            yield from zip(range(start, start + len(times)), times, outputs, strict=True)
        while True:
            yield -1, math.inf, 0

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    @property
    def mean_prompt(self) -> float:
        """Mean tokens of a prompt."""
        return float(self.prompt.mean()) if len(self) else 0.0

    @property
    def mean_output(self) -> float:
        """Mean tokens of an answer."""
        return float(self.output.mean()) if len(self) else 0.0


def read_traffic(path: Path) -> Traffic:
    """A trace by its ending, .csv or .jsonl.

    Raises DataError for another ending, a file that cannot be read or is empty, and a broken line,
    with its number.
    """
    readers: dict[str, Callable[[Path], Iterator[Parsed]]] = {
        ".csv": _azure,
        ".jsonl": _mooncake,
    }
    if path.suffix not in readers:
        what = f"{path.suffix or 'no ending'} is no format of traces"
        raise DataError(what, where=path, remedy="name a .csv (Azure) or .jsonl (Mooncake) file")
    try:
        rows = list(readers[path.suffix](path))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=path, remedy="correct the file") from error
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=path, remedy="store it as UTF-8") from error
    if not rows:
        raise DataError("has no requests", where=path, remedy="name a trace with some")
    return traffic_of(rows)


def traffic_of(rows: list[Parsed]) -> Traffic:
    """Rows as traffic, sorted by time and moved to begin at 0."""
    rows = sorted(rows, key=lambda row: row[0])
    start = rows[0][0]
    names = tuple(row[3] for row in rows)
    return Traffic(
        np.array([row[0] - start for row in rows], dtype=np.float64),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.int64),
        names if any(names) else (),
    )


def _azure(path: Path) -> Iterator[Parsed]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(_bounded(file, path))
        header = next(lines, [])
        columns = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
        if header[:3] != columns:
            raise _broken(path, 1, f"the columns are not {', '.join(columns)}")
        for row in lines:
            number = lines.line_num
            if not row:
                continue
            if len(row) < 3:
                raise _broken(path, number, f"{len(row)} of 3 columns")
            try:
                when = datetime.fromisoformat(row[0])
            except ValueError as error:
                raise _broken(path, number, f"{row[0]!r:.40} is not a time") from error
            if when.tzinfo is None:  # not the clock of this machine, which may jump in summer
                when = when.replace(tzinfo=UTC)
            since = (when - _EPOCH).total_seconds()
            yield (since, *_lengths(row[1], row[2], path, number), ())


def _mooncake(path: Path) -> Iterator[Parsed]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(_bounded(file, path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _broken(path, number, f"not JSON: {error}"[:120]) from error
            if not isinstance(row, dict):
                raise _broken(path, number, "not an object")
            when, names = row.get("timestamp"), row.get("hash_ids", [])
            if not isinstance(when, (int, float)) or isinstance(when, bool) or not 0 <= when < 1e15:
                raise _broken(path, number, "timestamp is not milliseconds")
            if not isinstance(names, list) or not all(_is_name(name) for name in names):
                raise _broken(path, number, "hash_ids is not a list of numbers")
            lengths = _lengths(row.get("input_length"), row.get("output_length"), path, number)
            full = lengths[0] // MOONCAKE_BLOCK
            yield (when / 1e3, *lengths, tuple(names[:full]))


def _is_name(name: Any) -> bool:
    return isinstance(name, int) and not isinstance(name, bool) and 0 <= name < 1 << 62


def _lengths(prompt: Any, output: Any, path: Path, number: int) -> tuple[int, int]:
    """Tokens of prompt and answer, at least one of each."""
    found = []
    for name, value in (("prompt", prompt), ("answer", output)):
        try:
            tokens = int(value)
        except (TypeError, ValueError, OverflowError) as error:  # the last: infinity
            raise _broken(path, number, f"{value!r:.40} is not a length of a {name}") from error
        if not 0 <= tokens <= MAX_TOKENS:
            raise _broken(path, number, f"a {name} of {tokens} tokens")
        found.append(max(1, tokens))
    return found[0], found[1]


def _bounded(file: Any, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if number > MAX_REQUESTS or len(line) == MAX_LINE:
            raise _broken(path, number, "too many requests, or too long a line")
        yield line


def _broken(path: Path, number: int, what: str) -> DataError:
    return DataError(f"line {number}: {what}", where=path, remedy="correct or remove the line")
