"""The documents say what is true: settings, links, and commands that CI runs."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from silva.config import build, overlay, paths
from silva.federation.tune import TuneConfig

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "docs", "benchmarks")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUNING = ROOT / "docs" / "tuning.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(r"`((?:[\w/]+/)?\w+\.(?:py|cpp))(?:: (\w+))?")
_SETTING = re.compile(r"((?:data|federation)(?:\.\w+)+)(?:\s*=\s*(.+))?")


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return [text for found, text in _FENCE.findall(page.read_text()) if found == language]


def commands(text: str) -> list[str]:
    """Commands of a shell text, a line each: continued lines joined, spaces and comments reduced."""
    joined = text.replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in joined.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def named_settings(page: Path) -> list[tuple[str, str]]:
    """Every setting that stands in inline code, with the value it is given or ""."""
    text = _FENCE.sub("", page.read_text())
    found = (_SETTING.fullmatch(code) for code in _CODE.findall(text))
    return [(match[1], match[2] or "") for match in found if match]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_settings", ROOT / "docs" / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_settings_are_up_to_date() -> None:
    page = TUNING.read_text()
    assert generator().rewritten(page) == page, "run `python docs/settings.py`"


def test_every_setting_stands_in_the_tables() -> None:
    listed = set(re.findall(r"^\| `([\w.]+)` \|", TUNING.read_text(), re.MULTILINE))
    assert set(paths(TuneConfig)) - listed == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = set(paths(TuneConfig))
    groups = {name.rpartition(".")[0] for name in known}
    assert [n for n, _ in named_settings(page) if n not in known | groups] == []
    for name, value in named_settings(page):
        if value:
            build(TuneConfig, overlay({}, {name: tomllib.loads(f"x = {value}")["x"]}), page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_functions_that_a_page_names_exist(page: Path) -> None:
    sources = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.*")]
    missing = []
    for file, name in _FILE.findall(page.read_text()):
        found = [p for p in sources if p.as_posix().endswith(f"/{file}")]
        if not any(re.search(rf"\b{name}\b", p.read_text()) for p in found):
            missing.append(f"{file}: {name}" if name else file)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_that_a_page_shows_are_valid(page: Path) -> None:
    for text in blocks(page, "toml"):
        build(TuneConfig, tomllib.loads(text), page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in _LINK.findall(_FENCE.sub("", page.read_text()))]
    local = [link for link in links if link and "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_commands_of_the_readme_run_in_ci() -> None:
    scripts = [*sorted((ROOT / "examples").glob("*.sh")), ROOT / ".ci" / "run"]
    run = {line for script in scripts for line in commands(script.read_text())}
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    run |= {f"make {target}" for target in targets}
    shown = [line for text in blocks(ROOT / "README.md", "sh") for line in commands(text)]
    assert shown
    assert [line for line in shown if line not in run] == []


def test_python_of_the_readme_runs_in_ci() -> None:
    scripts = (ROOT / "examples").glob("*.sh")
    run = {line.strip() for script in scripts for line in script.read_text().splitlines()}
    shown = "\n".join(blocks(ROOT / "README.md", "python")).splitlines()
    assert any(shown)
    assert [line for line in shown if line.strip() not in run] == []


def test_a_continued_command_is_one_line() -> None:
    assert commands("silva tune --data x \\\n    --out y   # why\n# only this\n") == [
        "silva tune --data x --out y"
    ]
