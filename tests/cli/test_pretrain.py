from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from silva.cli.pretrain import register
from silva.errors import SilvaError

RECIPE = """
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 20
image_size = 8
patch_size = 4
batch_size = 16
warmup_steps = 2
[[stages]]
side = 4
epochs = 1
smallest_crop = 0.5
[[stages]]
side = 8
epochs = 1
smallest_crop = 0.5
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    x = rng.integers(0, 160, (60, 8, 8, 3), dtype=np.uint8)
    x[np.arange(60), :, :, label] += 60
    names = np.array(["red", "green", "blue"])
    split = (np.arange(60) >= 48).astype(np.uint8)
    np.savez(
        tmp_path / "toy.npz", x=x, label=label.astype(np.uint8), split=split, class_names=names
    )
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return {
        "--config": tmp_path / "recipe.toml",
        "--data": tmp_path / "toy.npz",
        "--out": tmp_path / "model",
    }


def run(files: dict[str, Path], *more: str) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    words = [str(word) for pair in files.items() for word in pair]
    return CliRunner().invoke(app, ["pretrain", *words, "--threads", "1", *more])


def test_writes_a_model_directory(files: dict[str, Path]) -> None:
    from silva.models.registry import load_backbone

    result = run(files)
    assert result.exit_code == 0, result.output
    out = files["--out"]
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "curve.json",
        "curve.png",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert not out.with_name("model.run").exists()
    backbone = load_backbone(str(out))
    assert backbone.class_names == ("red", "green", "blue")
    assert backbone.side == 8
    record = json.loads((out / "curve.json").read_text())
    assert len(record["curve"]) == 2
    assert 0 <= record["accuracy"] <= 1
    assert f"{record['accuracy']:.1%}" in result.output


def test_interrupted_run_goes_on(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from silva.pretraining import train

    assert run(files).exit_code == 0
    expected = (files["--out"] / "model.safetensors").read_bytes()
    shutil.rmtree(files["--out"])
    whole = train.pretrain

    def cut(*arguments: Any) -> Any:
        def on_step(step: int, loss: float) -> None:
            if step == 5:
                raise KeyboardInterrupt

        return whole(*arguments[:4], on_step)

    monkeypatch.setattr(train, "pretrain", cut)
    result = run(files)
    assert result.exit_code == 130
    assert "goes on from" in result.output
    assert not files["--out"].exists()
    monkeypatch.setattr(train, "pretrain", whole)
    assert run(files).exit_code == 0
    assert (files["--out"] / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("name", ["config.json", "letters.txt"])
def test_output_that_exists(files: dict[str, Path], name: str) -> None:
    files["--out"].mkdir()
    (files["--out"] / name).write_text("{}")
    result = run(files)
    assert isinstance(result.exception, SilvaError)
    assert "--out" in str(result.exception)


def test_a_place_without_a_name_is_refused(files: dict[str, Path]) -> None:
    files["--out"] = Path()
    result = run(files)
    assert isinstance(result.exception, SilvaError)
    assert "name a folder with --out" in str(result.exception)


def test_a_place_that_cannot_be_is_refused_before_the_first_step(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silva.pretraining import train

    monkeypatch.setattr(train._Run, "epoch", lambda *_: pytest.fail("it trained"))
    (tmp_path / "file").write_text("")
    files["--out"] = tmp_path / "file" / "model"
    result = run(files)
    assert isinstance(result.exception, SilvaError)
    assert "choose another --out" in str(result.exception)


def test_unknown_setting(files: dict[str, Path]) -> None:
    files["--config"].write_text("depth = 3\n" + RECIPE)
    result = run(files)
    assert isinstance(result.exception, SilvaError)
    assert "depth" in str(result.exception)
    assert not files["--out"].with_name("model.run").exists()


def test_recipe_of_the_shipped_backbone_makes_the_model_that_is_promised() -> None:
    from silva.config import build, read_toml
    from silva.models.vit import ViT, ViTConfig
    from silva.pretraining.config import PretrainConfig

    path = Path(__file__).parents[2] / "recipes" / "pretrain" / "silva-vit-tiny.toml"
    recipe = build(PretrainConfig, read_toml(path), str(path))
    sides = [stage.side for stage in recipe.stages]
    assert sides == sorted(sides) and sides[-1] == recipe.image_size == 32
    assert all(side % recipe.patch_size == 0 for side in sides)
    shape = {f: getattr(recipe, f) for f in ViTConfig.__dataclass_fields__ if hasattr(recipe, f)}
    weights = sum(p.numel() for p in ViT(ViTConfig(**shape)).parameters())
    assert 2 * weights < 12_000_000
