"""Files stay under 400 lines, functions under 60, and every module says what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "benchmarks", "examples")
ENDINGS = {".py", ".pyi", ".cpp", ".hpp", ".sh"}


def source_files() -> list[Path]:
    return sorted(
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in ENDINGS
    )


def python_files() -> list[Path]:
    return [path for path in source_files() if path.suffix == ".py"]


def functions_too_long(tree: ast.AST) -> list[tuple[str, int]]:
    """Name and length of each function that has `MAX_FUNCTION_LINES` lines or more."""
    lengths = [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    return [(name, length) for name, length in lengths if length >= MAX_FUNCTION_LINES]


def test_there_are_sources_to_check() -> None:
    assert any(path.name == "config.py" for path in python_files())


def test_files_are_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in source_files()}
    assert {name: n for name, n in lengths.items() if n >= MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): found
        for path in python_files()
        if (found := functions_too_long(ast.parse(path.read_text())))
    }
    assert long == {}


@pytest.mark.parametrize("length", [MAX_FUNCTION_LINES - 1, MAX_FUNCTION_LINES])
def test_the_limit_is_exact(length: int) -> None:
    body = "\n".join(["def f():"] + ["    pass"] * (length - 1))
    assert bool(functions_too_long(ast.parse(body))) == (length >= MAX_FUNCTION_LINES)


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.is_relative_to(ROOT / "src")
        and path.read_text().strip()
        and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []
