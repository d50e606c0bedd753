from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from silva.adapters.tiers import Head
from silva.errors import ModelError
from silva.models import registry
from silva.models.backbone import Backbone
from silva.models.kinds import SHIPPED
from silva.models.loader import save_vit
from silva.models.registry import load_backbone
from silva.models.vit import ViT, ViTConfig


def tiny(seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    model = ViT(ViTConfig(8, 4, 3, 16, 1, 2, 20))
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    head = Head(torch.randn(3, 16), torch.zeros(3))
    return Backbone.of("tiny", model, head, ("a", "b", "c"), (0.4,) * 3, (0.2,) * 3)


def test_directory(tmp_path: Path) -> None:
    backbone = tiny()
    save_vit(tmp_path / "vit", backbone)
    loaded = load_backbone(str(tmp_path / "vit"))
    assert loaded.digest == backbone.digest
    assert loaded.id == str(tmp_path / "vit")
    assert loaded.class_names == ("a", "b", "c")
    assert loaded.side == 8
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert not loaded.model.training


def test_id_finds_the_directory_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_vit(tmp_path / "vit", tiny())
    monkeypatch.chdir(tmp_path)
    name = load_backbone("vit").id
    monkeypatch.chdir(tmp_path.parent)
    assert load_backbone(name).id == name


def test_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ASSETS", tmp_path)
    with pytest.raises(ModelError, match="not installed"):
        load_backbone("silva-vit-tiny")
    save_vit(tmp_path / "silva-vit-tiny", tiny())
    assert load_backbone("silva-vit-tiny").id == "silva-vit-tiny"
    assert load_backbone("silva-vit-tiny").digest == tiny().digest


def test_shipped_weights() -> None:
    backbone = load_backbone(SHIPPED[0])
    assert backbone.side == 32
    assert backbone.head is not None
    assert len(backbone.class_names) == len(backbone.head.weight) == 100
    folder = registry.ASSETS / SHIPPED[0]
    assert sum(f.stat().st_size for f in folder.iterdir()) < 12_000_000


@pytest.mark.parametrize("name", ["", "nothing", "silva-vit-tiny/../x", "a\0b", "x" * 5000])
def test_other_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ModelError, match="silva-vit-tiny, or the path"):
        load_backbone(name)


def test_shipped_names_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ASSETS", tmp_path / "assets")
    save_vit(tmp_path / "assets" / "other", tiny())
    monkeypatch.chdir(tmp_path)
    for name in ("other", "silva-vit-tiny/../other", f"silva-vit-tiny{os.sep}"):
        with pytest.raises(ModelError):
            load_backbone(name)


def test_digest_is_that_of_content() -> None:
    assert tiny().digest == tiny().digest != tiny(1).digest
    one = tiny()
    cut = ViT(ViTConfig(8, 4, 3, 16, 1, 4, 20))
    cut.load_state_dict(one.model.state_dict())
    others = [
        Backbone.of("x", cut, one.head, one.class_names, one.mean, one.std),
        Backbone.of("x", one.model, None, (), one.mean, one.std),
        Backbone.of("x", one.model, one.head, one.class_names, (0.5,) * 3, one.std),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 4
    renamed = Backbone.of("other", one.model, one.head, ("x", "y", "z"), one.mean, one.std)
    assert renamed.digest == one.digest
