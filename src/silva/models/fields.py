"""JSON files of model directories, read within bounds, and how their fields are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

from silva.errors import ModelError

LARGEST_JSON_BYTES = 16 << 20
"""Room for the labels of ImageNet-21k ten times over."""


def read_json(path: Path, limit_bytes: int = LARGEST_JSON_BYTES) -> dict[str, Any]:
    """One JSON object from a file of bounded size. Raises ModelError naming the file."""
    try:
        with path.open("rb") as opened:
            content = opened.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            raise ModelError(f"more than {limit_bytes >> 20} MiB of JSON", where=path)
        value = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot be read as JSON ({first_line(error)})",
            where=path,
            remedy="fetch the model directory again",
        ) from None
    if not isinstance(value, dict):
        raise ModelError("is not a JSON object", where=path)
    return value


def first_line(error: BaseException) -> str:
    """What an error says, short enough for one line of ours."""
    return str(error).split("\n")[0][:200] or type(error).__name__


def refused(name: str, why: str, where: object) -> ModelError:
    """The error for the field `name` of the file `where`."""
    return ModelError(f"{name}: {why}", where=where)


def short(value: object) -> str:
    """A value from a file as part of an error's line."""
    return repr(value)[:60]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number (an integer beyond a float's range is none)."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= 1e30 and math.isfinite(value)
