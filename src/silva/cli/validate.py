"""`silva validate`: what the model of the supernode predicts, beside what was published."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

EXIT_OUTSIDE = 1
"""The sheet's bars do not hold."""


class Sheet(StrEnum):
    """Published results that silva brings along."""

    cloudmatrix = "cloudmatrix"
    baselines = "baselines"


def register(app: typer.Typer) -> None:
    """Adds `silva validate`."""
    app.command("validate")(validate)


def validate(
    sheet: Annotated[Sheet, typer.Argument(help="Whose results.")],
    cases: Annotated[
        Path | None, typer.Option(help="Answer the questions of this JSON file instead.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            help="System that the questions are about: a name or a .toml file.",
            show_default="cloudmatrix-infer",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Predict published results of CloudMatrix-Infer, or of other systems, and show the errors."""
    from silva.errors import ConfigError
    from silva.supernode import validate as sheets
    from silva.supernode.cases import answered, read_cases
    from silva.supernode.system import load_system

    if cases is not None:
        found = load_system(system or sheets.DEFAULT_SYSTEM)
        print(json.dumps(answered(found, read_cases(cases), cases), indent=2))
        return
    if system is not None:
        remedy = "sheets name their systems; give --cases as well"
        raise ConfigError("--system has no effect without --cases", remedy=remedy)
    report = sheets.validate(sheet.value)
    print(json.dumps(report.as_plain(), indent=2) if as_json else sheets.table(report))
    if not report.holds:
        raise typer.Exit(EXIT_OUTSIDE)
