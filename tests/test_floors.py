"""Imports go down the floors of the house, never sideways between packages of one floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "silva"

FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "errors",
        "assets config amounts",
        "transfer kernels",
        "adapters quantization",
        "models data control",
        "experts",
        "federation serving supernode pretraining",
        "reality",
        "prediction",
        "api",
        "cli",
    )
)
"""Rooms from the ground up. `errors` lies below `config`; `cli` calls `api` calls `prediction`."""

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
PORCH = ""
"""The package `silva` itself: anybody may read its version; it imports rooms only when asked."""


def room_of(module: str) -> str:
    """silva.data.nouns -> data, silva -> the porch."""
    return [*module.split("."), PORCH][1]


def module_name(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(("silva", *parts))


def imported(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import, wherever it stands: in functions, under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and is_import_call(node):
            yield from (
                (node.lineno, a.value)
                for a in node.args
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that `from <here> import x` names; a relative one is resolved against `module`."""
    if not node.level:
        return node.module or ""
    package = module.split(".")[: -node.level]
    return ".".join([*package, node.module] if node.module else package)


def is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in {"import_module", "__import__"}


def violations(source: Path) -> list[str]:
    """One line for every import in `source` that does not go down."""
    found = []
    for path in sorted(source.rglob("*.py")):
        module = module_name(path, source)
        if path.name == "__init__.py" and path.parent == source:
            module = "silva"
        for line, target in imported(ast.parse(path.read_text()), module):
            parts = target.split(".")
            if parts[0] == "silva" and not allowed(room_of(module), parts):
                found.append(f"{path.relative_to(source)}:{line} imports {target}")
    return found


def allowed(room: str, target: list[str]) -> bool:
    there = target[1] if len(target) > 1 else PORCH
    if there in (PORCH, "__version__"):
        return True
    if room == there:
        return room in LEVEL
    return room in LEVEL and there in LEVEL and LEVEL[there] < LEVEL[room]


def test_imports_go_down_only() -> None:
    assert violations(SOURCE) == []


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module_name(path, SOURCE)) for path in SOURCE.rglob("*.py")}
    assert rooms - set(LEVEL) - {"__init__", "__main__"} == set()


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("data/a.py", "import silva.federation.cascade"),
        ("data/a.py", "from silva.models import vit"),
        ("data/a.py", "from silva import models"),
        ("data/a.py", "from ..models import vit"),
        ("data/deep/a.py", "from ...models.vit import ViT"),
        ("errors.py", "from silva.config import setting"),
        ("config.py", "def f():\n    from silva.data import nouns"),
        ("kernels/a.py", "if TYPE_CHECKING:\n    import silva.api"),
        ("adapters/a.py", "import importlib\nimportlib.import_module('silva.cli.main')"),
        ("federation/a.py", "import silva.pretraining"),
        ("cellar/a.py", "import silva.errors"),
        ("data/a.py", "import silva.attic"),
        ("__init__.py", "from silva.api import tune"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("data/a.py", "import numpy\nfrom silva.errors import DataError"),
        ("data/a.py", "from . import b\nfrom .c import d\nfrom silva.data.e import f"),
        ("data/__init__.py", "from silva.data.a import b"),
        ("federation/a.py", "from silva import __version__, models"),
        ("api.py", "from silva.federation import cascade"),
        ("cli/tune.py", "def f():\n    import silva.api"),
    ],
)
def test_a_right_import_is_let_through(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert violations(tmp_path) == []
