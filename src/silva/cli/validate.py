"""`silva validate`: what the model predicts, beside what was published or what this machine does."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from silva.cli.writable import check_writable

EXIT_OUTSIDE = 1
"""The bars do not hold."""
PUBLISHED = ("cases", "system")
"""Options for published results; the others are for this machine."""


class Sheet(StrEnum):
    """Published results that silva brings along, and this machine."""

    cloudmatrix = "cloudmatrix"
    baselines = "baselines"
    here = "here"


Which = Annotated[Sheet, typer.Argument(help="Whose results; here: this machine's server.")]
Cases = Annotated[Path | None, typer.Option(help="Answer the questions of this JSON file instead.")]
SystemName = Annotated[
    str | None,
    typer.Option(
        help="System that the questions are about: a name or a .toml file.",
        show_default="cloudmatrix-infer",
    ),
]
ModelName = Annotated[
    str | None, typer.Option(help="here: the model to serve.", show_default="smollm2")
]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", help="here: what silva profile wrote; else measured.")
]
PointTime = Annotated[
    str | None, typer.Option(help="here: of the profile, time for each kind of step.")
]
Turns = Annotated[int | None, typer.Option(help="here: times in turn.", show_default="5")]
Rate = Annotated[
    float | None, typer.Option(help="here: arrivals a second.", show_default="a moderate load")
]
Duration = Annotated[
    str | None, typer.Option(help="here: requests come for so long.", show_default="90s")
]
Input = Annotated[
    str | None,
    typer.Option("--input", help="here: prompt tokens.", show_default="uniform(32,256)"),
]
Output = Annotated[
    str | None, typer.Option(help="here: answer tokens.", show_default="uniform(16,64)")
]
Seed = Annotated[int | None, typer.Option(help="here: decides the trace.", show_default="0")]
Config = Annotated[Path | None, typer.Option(help="here: TOML file of silva serve's settings.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="here: any setting of silva serve.")]
Out = Annotated[Path | None, typer.Option(help="here: write all that was found as JSON.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


def register(app: typer.Typer) -> None:
    """Adds `silva validate`."""
    app.command("validate")(validate)


def validate(
    ctx: typer.Context,
    sheet: Which,
    cases: Cases = None,
    system: SystemName = None,
    model: ModelName = None,
    profile: ProfileFile = None,
    point_time: PointTime = None,
    turns: Turns = None,
    rate: Rate = None,
    duration: Duration = None,
    input_: Input = None,
    output: Output = None,
    seed: Seed = None,
    config: Config = None,
    sets: Sets = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Predict what others published, or what this machine's server does, and show the errors.

    cloudmatrix and baselines are published results. here profiles this machine, serves a trace and
    simulates it, several times in turn. Ends with exit code 1 when a bar does not hold.
    """
    _refuse_idle(sheet, ctx.params)
    if sheet is Sheet.here:
        holds = _here(ctx.params)
    elif cases is not None:
        _answer(cases, system)
        return
    else:
        holds = _published(sheet.value, as_json)
    if not holds:
        raise typer.Exit(EXIT_OUTSIDE)


def _answer(cases: Path, system: str | None) -> None:
    from silva.supernode import validate as sheets
    from silva.supernode.cases import answered, read_cases
    from silva.supernode.system import load_system

    found = load_system(system or sheets.DEFAULT_SYSTEM)
    print(json.dumps(answered(found, read_cases(cases), cases), indent=2))


def _published(sheet: str, as_json: bool) -> bool:
    from silva.supernode import validate as sheets

    report = sheets.validate(sheet)
    print(json.dumps(report.as_plain(), indent=2) if as_json else sheets.table(report))
    return report.holds


def _here(values: dict[str, Any]) -> bool:
    """Serve, simulate, compare; whether the bars hold."""
    from silva.amounts import parse_seconds
    from silva.cli.profile import point_seconds, served, shown
    from silva.config import build, overlay
    from silva.reality import compare
    from silva.reality.here import HereConfig, validate_here

    model, config, sets = values["model"], values["config"], values["sets"] or []
    out, duration = values["out"], values["duration"]
    if out is not None:
        check_writable(out)
    with served(model, config, sets) as (name, target):
        flags = {
            "profile.model": name,
            "profile.point_s": point_seconds(values["point_time"]),
            "trace.rate": values["rate"],
            "trace.duration_s": None if duration is None else parse_seconds(duration, "--duration"),
            "trace.input": values["input_"],
            "trace.output": values["output"],
            "trace.seed": values["seed"],
            "turns": values["turns"],
        }
        settings = build(HereConfig, overlay({}, flags), "silva validate here")
        with shown() as watch:
            found = validate_here(settings, target, values["profile"], watch)
    text = json.dumps(found.as_plain(), allow_nan=False)
    print(text if values["as_json"] else compare.table(found))
    if out is not None:
        _write(out, text)
    return found.holds


def _write(path: Path, text: str) -> None:
    from silva.errors import ConfigError

    try:
        path.write_text(text + "\n")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=path) from error


def _refuse_idle(sheet: Sheet, values: dict[str, Any]) -> None:
    """ConfigError for an option that this command would not look at."""
    from silva.errors import ConfigError

    if values["system"] is not None and values["cases"] is None and sheet is not Sheet.here:
        remedy = "sheets name their systems; give --cases as well"
        raise ConfigError("--system has no effect without --cases", remedy=remedy)
    for name, value in values.items():
        if name in ("sheet", "as_json") or value is None or (name == "sets" and not value):
            continue
        if (name in PUBLISHED) == (sheet is Sheet.here):
            flag = {"input_": "input", "sets": "set"}.get(name, name.replace("_", "-"))
            what = f"--{flag} has no effect on {sheet.value}"
            raise ConfigError(what, remedy="leave it out")
    if values["profile"] is not None and values["point_time"] is not None:
        what = "--point-time has no effect on a profile that is there already"
        raise ConfigError(what, remedy="leave one of them out")
