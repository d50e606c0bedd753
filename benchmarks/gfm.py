"""Markdown that the results are written in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MISSING = "Not measured yet. Command: "


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table: the first column to the left, the others to the right."""
    sides = [":--", *["--:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, sides, *rows))


def code(text: str) -> str:
    return f"`{text}`"


def plain(text: str) -> str:
    """Names with underscores and the like, safe in a cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("_", "\\_")


def percent(value: dict[str, Any] | None) -> str:
    """A mean over seeds with its deviation, in percent; a dash where nothing was measured."""
    if value is None:
        return "-"
    deviation = "" if value["std"] is None else f" +- {100 * value['std']:.1f}"
    return f"{100 * value['mean']:.1f}{deviation}"


def provenance(result: dict[str, Any]) -> str:
    """One line under a table: command, date, commit, machine, versions."""
    host, versions = result["machine"], result["versions"]
    memory = f"{host['memory_bytes'] / 2**30:.0f} GiB"
    parts = (
        f"Command: {code(result['command'])}",
        f"{result['date']}, commit {result['commit']}",
        f"{host['processor']}, {host['cores']} cores, {memory}, {host['system']}",
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    )
    return "*" + "; ".join(parts) + ".*"
