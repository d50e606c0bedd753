"""Recorded traffic: when requests came, how long they were, and which parts of prompts they shared.

Mooncake  JSONL, a line a request: {"timestamp": ms, "input_length": tokens, "output_length": tokens,
          "hash_ids": [...]}; each hash id stands for the content of 512 tokens and all before them
Azure     CSV with the columns TIMESTAMP (ISO 8601), ContextTokens, GeneratedTokens

Every mistake is a DataError that names the line.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from silva.errors import DataError
from silva.serving.bench.lengths import MOST_TOKENS

BLOCK_TOKENS = 512
"""Tokens that one hash id of a Mooncake trace stands for."""
MAX_ROWS = 5_000_000
MAX_LINE_BYTES = 1 << 22
_MAX_HASH = 1 << 64
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True)
class TraceRow:
    """One request: seconds after the first one, tokens, and the ids of its blocks' contents."""

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


def read_trace(path: Path | str) -> list[TraceRow]:
    """The rows of a trace in the order of their times, the first at 0; the format is detected.

    Lengths of 0 become 1: nothing can be asked for less. Raises DataError for a file that is
    missing, empty, too large or of neither format, and for the first line that is wrong.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            rows = list(_rows(_lines(file, path), path))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    if not rows:
        raise DataError("holds no requests", where=path, remedy="give a trace with rows")
    rows.sort(key=lambda row: row.at_s)
    first_s = rows[0].at_s
    return [replace(row, at_s=row.at_s - first_s) for row in rows]


@dataclass(frozen=True)
class _Place:
    """A line of the file, for errors."""

    path: Path
    line: int

    def error(self, what: str) -> DataError:
        where = f"{self.path}, line {self.line}"
        return DataError(what, where=where, remedy="correct or remove this line")


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[_Place, str]]:
    """Lines that are not blank, with their numbers."""
    for number in itertools.count(1):
        # Iteration would read a file of one endless line whole.
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        place = _Place(path, number)
        if len(line) > MAX_LINE_BYTES:
            raise place.error(f"has more than {MAX_LINE_BYTES} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise place.error("is not UTF-8 text") from error
        if text:
            yield place, text


def _rows(lines: Iterator[tuple[_Place, str]], path: Path) -> Iterator[TraceRow]:
    first = next(lines, None)
    if first is None:
        return
    place, text = first
    if text.startswith("{"):
        parsed = (_mooncake(at, line) for at, line in itertools.chain([first], lines))
    else:
        columns = _columns(place, text)
        parsed = (_azure(at, line, columns) for at, line in lines)
    for count, row in enumerate(parsed):
        if count == MAX_ROWS:
            raise DataError(f"has more than {MAX_ROWS} rows", where=path, remedy="shorten it")
        yield row


def _mooncake(place: _Place, text: str) -> TraceRow:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise place.error("is not JSON") from error
    if not isinstance(row, dict):
        raise place.error("is not a JSON object")
    blocks = row.get("hash_ids", [])
    if not isinstance(blocks, list) or not all(_is_count(b, _MAX_HASH) for b in blocks):
        raise place.error("hash_ids must be a list of whole numbers from 0")
    return TraceRow(
        at_s=_milliseconds(row.get("timestamp"), place),
        input_tokens=_tokens(row.get("input_length"), "input_length", place),
        output_tokens=_tokens(row.get("output_length"), "output_length", place),
        blocks=tuple(blocks),
    )


def _columns(place: _Place, text: str) -> list[int]:
    """Where Azure's columns stand in the header."""
    names = [name.strip() for name in _cells(place, text)]
    if any(name not in names for name in _AZURE):
        raise place.error(
            "is neither JSON as Mooncake's traces have it, nor a header with "
            f"{', '.join(_AZURE)} as Azure's"
        )
    return [names.index(name) for name in _AZURE]


def _azure(place: _Place, text: str, columns: list[int]) -> TraceRow:
    cells = _cells(place, text)
    if max(columns) >= len(cells):
        raise place.error(f"has {len(cells)} cells, too few for its header")
    time, context, generated = (cells[column].strip() for column in columns)
    return TraceRow(
        at_s=_moment(time, place),
        input_tokens=_tokens(_whole(context), _AZURE[1], place),
        output_tokens=_tokens(_whole(generated), _AZURE[2], place),
    )


def _cells(place: _Place, text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise place.error("is not a line of CSV") from error


def _whole(text: str) -> int | None:
    """A whole number of few digits, ASCII alone; anything else is nothing."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _moment(text: str, place: _Place) -> float:
    """ISO 8601 as seconds; a time without a zone is one in UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError as error:
        raise place.error(f"{text[:40]!r} is not a time as 2023-11-16 18:15:46.680") from error


def _milliseconds(value: Any, place: _Place) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1e15:
        raise place.error("timestamp must be milliseconds from 0")
    return value / 1e3


def _tokens(value: Any, name: str, place: _Place) -> int:
    if not _is_count(value, MOST_TOKENS + 1):
        raise place.error(f"{name} must be a whole number from 0 to {MOST_TOKENS}")
    return max(1, int(value))


def _is_count(value: Any, below: int) -> bool:
    return type(value) is int and 0 <= value < below
