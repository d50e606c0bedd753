"""Every recipe is one the command in its header can read."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from silva.config import build, read_toml
from silva.data.spec import parse_spec
from silva.federation.tune import TuneConfig
from silva.pretraining.config import PretrainConfig
from silva.pretraining.language.config import LanguageRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.toml"))


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_is_a_whole_configuration(name: str) -> None:
    values = read_toml(RECIPES / name)
    if name.startswith("pretrain/"):
        kind = LanguageRecipe if values.get("kind") == "language" else PretrainConfig
        build(kind, values, name)
        return
    config = build(TuneConfig, values, name)
    parse_spec(config.data.partition)
    assert config.data.path == ""


@pytest.mark.parametrize("name", FILES)
def test_the_header_shows_the_command_that_runs_it(name: str) -> None:
    lines = (RECIPES / name).read_text().splitlines()
    header = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    command = next(line for line in header if " silva " in f" {line}" and "--config" in line)
    words = shlex.split(command)
    assert words[words.index("--config") + 1] == f"recipes/{name}"
    assert {"--data", "--out"} <= set(words)
    assert words[words.index("silva") + 1] == ("pretrain" if "pretrain/" in name else "tune")
