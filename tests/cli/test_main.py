from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import silva
from silva.cli.main import COMMANDS, make_app
from silva.errors import DataError

RUNNER = CliRunner()


def app_that(raises: BaseException) -> typer.Typer:
    """The command line with one more command that fails."""
    app = make_app()

    @app.command("fail")
    def fail() -> None:
        raise raises

    return app


def test_version() -> None:
    result = RUNNER.invoke(make_app(), ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"silva {silva.__version__}\n")


def test_every_command_module_shows_in_the_help() -> None:
    result = RUNNER.invoke(make_app(), ["--help"])
    assert result.exit_code == 0
    for module in COMMANDS:
        assert module.__name__.rpartition(".")[2] in result.stdout


def test_a_mistake_is_one_line_and_exit_code_2() -> None:
    error = DataError("is no image", where="cat.png", remedy="give a PNG")
    result = RUNNER.invoke(app_that(error), ["fail"])
    assert result.exit_code == 2
    assert result.stderr == "silva: error: cat.png: is no image; give a PNG\n"
    assert result.stdout == ""


def test_interruption_says_how_to_go_on() -> None:
    result = RUNNER.invoke(app_that(KeyboardInterrupt()), ["fail"])
    assert result.exit_code == 130
    assert "--resume" in result.stderr


def test_a_defect_keeps_its_traceback() -> None:
    result = RUNNER.invoke(app_that(ZeroDivisionError("defect")), ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_reader_that_went_away_is_no_error() -> None:
    result = RUNNER.invoke(app_that(BrokenPipeError(32, "Broken pipe")), ["fail"])
    assert result.exit_code == 1
    assert result.stderr == ""


def test_unknown_command_is_exit_code_2() -> None:
    assert RUNNER.invoke(make_app(), ["nonsense"]).exit_code == 2


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["tune", "--help"], ["forest", "export", "--help"]]
)
def test_the_command_line_imports_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
import sys
from silva.cli.main import make_app
try:
    make_app()({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "transformers", "peft", "matplotlib", "pyarrow", "sklearn", "scipy", "numpy"}}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"
