from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from silva.adapters.tiers import Head
from silva.errors import ModelError
from silva.models.backbone import Backbone
from silva.models.vit import ViT, ViTConfig
from silva.pretraining.evaluate import top_1

SHAPE = ViTConfig(
    image_size=8,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
)
IMAGES = torch.randint(
    0, 256, (11, 3, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
)


def backbone() -> Backbone:
    torch.manual_seed(0)
    vit = ViT(SHAPE)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    head = Head(torch.randn(3, 16), torch.zeros(3))
    return Backbone.of("tiny", vit, head, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3)


def answers(base: Backbone) -> torch.Tensor:
    assert base.head is not None
    pixels = base.pixels(IMAGES.permute(0, 2, 3, 1).numpy())
    return base.model(pixels, (base.head.weight, base.head.bias)).argmax(dim=1)


def test_share_of_images_whose_likeliest_class_is_their_label() -> None:
    base = backbone()
    labels = answers(base)
    assert top_1(base, IMAGES, labels) == 1.0
    labels[:4] = (labels[:4] + 1) % 3
    assert top_1(base, IMAGES, labels) == pytest.approx(7 / 11)


@pytest.mark.parametrize("batch", [1, 4, 11, 500])
def test_the_batch_does_not_matter(batch: int) -> None:
    base = backbone()
    assert top_1(base, IMAGES, answers(base), batch) == 1.0


def test_no_images_are_no_hits() -> None:
    assert top_1(backbone(), IMAGES[:0], torch.zeros(0, dtype=torch.int64)) == 0.0


def test_a_backbone_without_classifier_cannot_be_measured() -> None:
    with pytest.raises(ModelError, match="tiny: has no classifier"):
        top_1(replace(backbone(), head=None), IMAGES, torch.zeros(11, dtype=torch.int64))
