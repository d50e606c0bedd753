"""The package hands its names on, and stays pure: nothing heavy, no clock, no chance."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import silva.control

IMPURE = {"torch", "zmq", "asyncio", "time", "random", "datetime", "os", "socket", "threading"}
SOURCES = sorted(Path(silva.control.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", silva.control.__all__)
def test_every_name_is_there(name: str) -> None:
    home = import_module(f"silva.control.{silva.control._HOMES[name]}")
    assert getattr(silva.control, name) is getattr(home, name)


def test_no_other_name_is() -> None:
    assert set(silva.control.__all__) == set(silva.control._HOMES)
    with pytest.raises(AttributeError, match="nothing"):
        silva.control.nothing  # noqa: B018


def test_nothing_impure_is_imported() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & IMPURE, source


def test_the_scheduler_loads_nothing_heavy() -> None:
    code = "import sys, silva.control.scheduler; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
