"""Writes the tables of settings in docs/tuning.md from the code that reads them.

    python docs/settings.py          rewrite the block between the markers
    python docs/settings.py --check  exit with 1 when it is out of date

silva must be installed; nothing else is needed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from silva.federation.tune import SHARES, TuneConfig

PAGE = Path(__file__).with_name("tuning.md")
START, END = "<!-- settings -->", "<!-- /settings -->"


def tables() -> str:
    """Every setting of a run, a table a group, in the order of the dataclasses."""
    parts = [_table(name, cls) for name, cls in _groups("", TuneConfig)]
    shares = ", ".join(f"{tier} {share * 100:.0f} %" for tier, share in SHARES.items())
    parts.append(f"A tier whose `rounds` are 0 gets its share of `federation.rounds`: {shares}.")
    return "\n\n".join(parts)


def rewritten(page: str) -> str:
    """The text of `page` with a fresh block between the markers."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise SystemExit(f"{PAGE}: the markers {START} and {END} are missing")
    return f"{before}{START}\n\n{tables()}\n\n{END}{after}"


def _groups(prefix: str, cls: type[Any]) -> Iterator[tuple[str, type[Any]]]:
    """Dotted name and dataclass of `cls` itself and of every group below it."""
    yield prefix, cls
    hints = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[each.name]):
            yield from _groups(f"{prefix}{each.name}.", hints[each.name])


def _table(prefix: str, cls: type[Any]) -> str:
    hints = typing.get_type_hints(cls)
    rows = [
        (f"`{prefix}{f.name}`", _default(f.default), _allowed(f), str(f.metadata["help"]))
        for f in dataclasses.fields(cls)
        if not dataclasses.is_dataclass(hints[f.name])
    ]
    lines = [("setting", "default", "allowed", "meaning"), ("---",) * 4, *rows]
    title = f"**[{prefix[:-1]}]**" if prefix else "**At the top of the file**"
    return title + "\n\n" + "\n".join("| " + " | ".join(_cell(c) for c in r) + " |" for r in lines)


def _default(value: Any) -> str:
    """As TOML writes it."""
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _allowed(each: dataclasses.Field[Any]) -> str:
    choices, low, high = (each.metadata.get(key) for key in ("choices", "low", "high"))
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    return f"{_number(low)} to {_number(high)}" if low is not None else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> None:
    """Rewrite the page, or only say whether it is up to date."""
    old = PAGE.read_text(encoding="utf-8")
    new = rewritten(old)
    if arguments == ["--check"]:
        sys.exit(int(old != new))
    if arguments:
        sys.exit("usage: settings.py [--check]")
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
