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
        f"{result['date']}, {commits(result)}",
        f"{host['processor']}, {host['cores']} cores, {memory}, {host['system']}",
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    )
    return "*" + "; ".join(parts) + ".*"


def commits(result: dict[str, Any]) -> str:
    """The commit that each run was made with, which may be older than the file; else the file's."""
    word, runs = _runs(result)
    by_commit: dict[str, list[str]] = {}
    for name, run in runs:
        if "commit" in run:
            by_commit.setdefault(run["commit"], []).append(name)
    if len(by_commit) < 2:
        return f"commit {next(iter(by_commit), result['commit'])}"
    each = (
        f"{commit} ({word}{'s' * (len(names) > 1)} {', '.join(names)})"
        for commit, names in by_commit.items()
    )
    return f"commits {', '.join(each)}"


def _runs(result: dict[str, Any]) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """What tells the runs of a result apart, and each by it: seeds, or their place in a list."""
    runs = result.get("runs") or result.get("seeds")
    if isinstance(runs, dict):
        return "seed", sorted(runs.items(), key=lambda item: int(item[0]))
    return "run", [(str(n), run) for n, run in enumerate(result.get("runs", ()))]
