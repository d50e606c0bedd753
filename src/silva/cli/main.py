"""The `silva` command: gathers the command groups and turns errors into one line and an exit code.

Command modules import torch and the like inside their functions, so that `silva --help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from silva import __version__
from silva.cli import (
    bench,
    demo,
    doctor,
    drain,
    forest,
    model,
    plan,
    predict,
    pretrain,
    profile,
    scale,
    serve,
    simulate,
    status,
    stop,
    switch,
    tune,
    validate,
)
from silva.errors import SilvaError

COMMANDS = (
    *(demo, tune, forest, predict, pretrain),
    *(serve, status, scale, drain, switch, stop),
    *(model, bench),
    *(plan, simulate, profile, validate, doctor),
)
"""Command modules in the order of `silva --help`; each has `register(app)`."""

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
INTERRUPTED = "interrupted; a tuning run goes on with `silva tune --resume FOREST`"


class Commands(TyperGroup):
    """All commands: a user's mistake ends with exit code 2, Ctrl-C with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SilvaError as error:
            print(f"silva: error: {_one_line(str(error))}", file=sys.stderr)
            raise typer.Exit(EXIT_MISTAKE) from error
        except KeyboardInterrupt as interrupt:
            print(f"\nsilva: {INTERRUPTED}", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from interrupt


def _one_line(text: str) -> str:
    """`text` without line breaks and terminal codes, which the name of a file may bring along."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"silva {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """One foundation model, many clients: a forest of LoRA adapters tuned where the data lives."""


def make_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="silva",
        cls=Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for command in COMMANDS:
        command.register(app)
    return app


def run() -> None:
    """Entry point of the `silva` script. A reader that goes away (`| head`) ends it quietly."""
    make_app()()
