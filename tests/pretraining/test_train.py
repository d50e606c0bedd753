from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from silva.errors import ConfigError, DataError, ModelError, RunError
from silva.pretraining import train
from silva.pretraining.checkpoint import FILE
from silva.pretraining.config import PretrainConfig, Stage
from silva.pretraining.evaluate import top_1
from silva.pretraining.train import LabelledImages, pretrain

CONFIG = PretrainConfig(
    stages=(Stage(4, 1, 0.6), Stage(8, 2, 0.6)),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    image_size=8,
    patch_size=4,
    batch_size=24,
    muon_lr=1e-2,
    adamw_lr=1e-2,
    warmup_steps=4,
)


def toy(n: int, seed: int) -> LabelledImages:
    """Three classes by the channel that is brightest."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 160, (n, 3, 8, 8), generator=generator)
    images[torch.arange(n), labels] += 60
    return LabelledImages(images.to(torch.uint8), labels)


TRAIN, HELD_OUT = toy(96, 0), toy(60, 1)


def weights(result: Any) -> dict[str, torch.Tensor]:
    return {**result.backbone.state_dict(), **result.head.state_dict()}


def stop_at(step: int) -> Any:
    def on_step(number: int, loss: float) -> None:
        if number == step:
            raise KeyboardInterrupt

    return on_step


def test_learns_a_toy(tmp_path: Path) -> None:
    steps: list[int] = []
    config = replace(CONFIG, stages=(Stage(4, 2, 0.6), Stage(8, 6, 0.6)))
    result = pretrain(config, TRAIN, HELD_OUT, tmp_path, lambda step, loss: steps.append(step))
    assert result.curve[-1]["accuracy"] > 0.7
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]
    assert [row["side"] for row in result.curve] == [4, 4, 8, 8, 8, 8, 8, 8]
    assert steps == list(range(1, 33))
    backbone = result.as_backbone("toy", ("r", "g", "b"))
    accuracy = top_1(backbone, HELD_OUT.images, HELD_OUT.labels)
    assert accuracy == pytest.approx(result.curve[-1]["accuracy"], abs=0.02)
    with pytest.raises(ModelError, match="no classifier"):
        top_1(replace(backbone, head=None), HELD_OUT.images, HELD_OUT.labels)


@pytest.mark.parametrize("step", [2, 4, 5, 8, 11])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, step: int) -> None:
    whole = pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path / "cut", stop_at(step))
    first: list[int] = []
    cut = pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path / "cut", lambda s, loss: first.append(s))
    assert first[0] == (step - 1) // 4 * 4 + 1
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(cut)[name]), name
    timeless = [[{**row, "seconds": 0} for row in r.curve] for r in (whole, cut)]
    assert timeless[0] == timeless[1]
    assert (whole.mean, whole.std) == (cut.mean, cut.std)


@pytest.mark.parametrize("threads", [2, 3])
def test_weights_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(train, "CHUNK", 7)
    found, before = [], torch.get_num_threads()
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            found.append(weights(pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path / str(count))))
            assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_chunks_give_the_gradient_of_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for chunk in (5, 1000):
        monkeypatch.setattr(train, "CHUNK", chunk)
        result = pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path / str(chunk))
        found.append([row["loss"] for row in result.curve])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_finished_run_trains_no_further(tmp_path: Path) -> None:
    whole = pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path)
    again = pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path, stop_at(1))
    assert all(torch.equal(t, weights(again)[k]) for k, t in weights(whole).items())


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "foreign"])
def test_damaged_checkpoint(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    with pytest.raises(KeyboardInterrupt):
        pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path, stop_at(5))
    path = tmp_path / FILE
    content = path.read_bytes()
    if damage == "foreign":
        save_file({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes({"truncated": content[:-9], "empty": b"", "garbage": b"x" * 99}[damage])
    with pytest.raises(RunError, match=r"damaged.*remove it to start"):
        pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path)


def test_checkpoint_of_another_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pretrain(CONFIG, TRAIN, HELD_OUT, tmp_path, stop_at(5))
    with pytest.raises(RunError, match="other settings \\(muon_lr\\)"):
        pretrain(replace(CONFIG, muon_lr=0.5), TRAIN, HELD_OUT, tmp_path)
    fewer = LabelledImages(TRAIN.images, TRAIN.labels.clamp(max=1))
    with pytest.raises(RunError, match="damaged"):
        pretrain(CONFIG, fewer, HELD_OUT, tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"stages": ()}, ConfigError, "stages"),
        ({"num_attention_heads": 3}, ConfigError, "num_attention_heads"),
        ({"patch_size": 5}, ConfigError, "patch_size"),
        ({"batch_size": 97}, DataError, "96 training images.*batch_size"),
    ],
)
def test_refused_before_training(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pretrain(replace(CONFIG, **changes), TRAIN, HELD_OUT, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_images(tmp_path: Path) -> None:
    empty = LabelledImages(HELD_OUT.images[:0], HELD_OUT.labels[:0])
    with pytest.raises(DataError, match="no held-out"):
        pretrain(CONFIG, TRAIN, empty, tmp_path)
    floats = LabelledImages(TRAIN.images.float(), TRAIN.labels)
    with pytest.raises(DataError, match="not uint8"):
        pretrain(CONFIG, floats, HELD_OUT, tmp_path)


def test_loss_that_explodes(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="lower muon_lr"):
        pretrain(replace(CONFIG, adamw_lr=1e38), TRAIN, HELD_OUT, tmp_path)
