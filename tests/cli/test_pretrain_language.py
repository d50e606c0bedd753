from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from silva.cli.pretrain import register
from silva.errors import SilvaError
from silva.pretraining.language import write

RECIPE = """
kind = "language"
steps = 3
sequences = 2
length = 16
held_out = 0.3
[model]
vocab_size = 270
hidden_size = 8
layers = 2
intermediate_size = 8
experts = 2
experts_per_token = 1
expert_size = 8
heads = 1
q_rank = 4
kv_rank = 4
nope_size = 4
rope_size = 2
value_size = 4
context = 64
"""


def run(folder: Path, data: Path) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    words = ["--config", folder / "recipe.toml", "--data", data, "--out", folder / "model"]
    return CliRunner().invoke(app, ["pretrain", *map(str, words), "--threads", "1"])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    random.seed(0)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    texts = tmp_path / "texts"
    texts.mkdir()
    lines = [" ".join(random.choices("a root and a leaf fall".split(), k=40)) for _ in range(800)]
    (texts / "all.txt").write_text("\n\n".join(lines))
    return texts


def test_a_recipe_of_that_kind_makes_a_language_model(texts: Path, tmp_path: Path) -> None:
    result = run(tmp_path, texts)
    assert result.exit_code == 0, result.output
    assert "bits per byte on held-out text" in result.output
    assert (tmp_path / "model" / "model.safetensors").is_file()
    again = run(tmp_path, texts)
    assert "is there already" in str(again.exception)


@pytest.mark.parametrize("line", ["steps = 0", "colour = 3"])
def test_mistakes_in_the_recipe(tmp_path: Path, line: str) -> None:
    (tmp_path / "recipe.toml").write_text(f'kind = "language"\n{line}\n')
    result = run(tmp_path, tmp_path)
    assert isinstance(result.exception, SilvaError)
    assert line.split()[0] in str(result.exception)


def test_data_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    result = run(tmp_path, tmp_path / "recipe.toml")
    assert "is no folder" in str(result.exception)
    assert not (tmp_path / "model").exists()


def test_a_disk_that_is_full_at_the_end_loses_no_training(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(write, "write_mapped", full)
        assert isinstance(run(tmp_path, texts).exception, OSError)
    assert (tmp_path / "model" / "config.json").is_file()
    assert not (tmp_path / "model" / "model.safetensors").exists()
    result = run(tmp_path, texts)
    assert result.exit_code == 0, result.output
    assert "3/3" not in result.output  # nothing was trained again
    assert not (tmp_path / "model.run").exists()
