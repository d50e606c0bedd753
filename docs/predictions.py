"""Writes the tables of docs/planning.md from what the model of the supernode computes.

    python docs/predictions.py          rewrite the blocks between the markers
    python docs/predictions.py --check  exit with 1 when they are out of date

silva must be installed; nothing else is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from silva.supernode.decode import decode_step
from silva.supernode.explain import explain_decode
from silva.supernode.hardware import read_hardware
from silva.supernode.system import load_system, read_system
from silva.supernode.validate import DEFAULT_SYSTEM, table, validate
from silva.supernode.workload import DecodeLoad

PAGE = Path(__file__).with_name("planning.md")


def blocks() -> dict[str, str]:
    """Text of every generated block by the name in its markers."""
    step = decode_step(load_system(DEFAULT_SYSTEM), DecodeLoad())
    return {
        "cloudmatrix": _fenced(table(validate("cloudmatrix"))),
        "baselines": _fenced(table(validate("baselines"))),
        "layer": _fenced(explain_decode(step)),
        "assumptions": _assumptions(),
    }


def rewritten(page: str) -> str:
    """The text of `page` with fresh blocks between the markers."""
    for name, text in blocks().items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, opening, rest = page.partition(start)
        _, closing, after = rest.partition(end)
        if not (opening and closing):
            raise SystemExit(f"{PAGE}: the markers {start} and {end} are missing")
        page = f"{before}{start}\n\n{text}\n\n{end}{after}"
    return page


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def _assumptions() -> str:
    """Figures of the machine and the system whose source says that they are assumed."""
    system = read_system(DEFAULT_SYSTEM)
    machine = read_hardware(system.spec.hardware)
    lines = ["| figure | assumed |", "| --- | --- |"]
    for read in (machine, system):
        for name, source in read.sources.items():
            if source.startswith("assumed"):
                why = source.removeprefix("assumed").lstrip(": ")
                lines.append(f"| `{read.path.stem}: {name}` | {why} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Rewrite the page, or only say whether it is up to date."""
    old = PAGE.read_text(encoding="utf-8")
    new = rewritten(old)
    if arguments == ["--check"]:
        if new != old:
            raise SystemExit(f"{PAGE} is out of date: run `python {Path(__file__).name}`")
    else:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
