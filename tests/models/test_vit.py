from __future__ import annotations

import pytest
import torch
from torch import nn

from silva.models.layers import Adaptation
from silva.models.vit import ViT, ViTConfig


def random_vit(**shape: int) -> ViT:
    torch.manual_seed(0)
    fixed = {"image_size": 8, "patch_size": 2, "hidden_size": 24, "num_hidden_layers": 2}
    model = ViT(ViTConfig(**{**fixed, "num_attention_heads": 3, "intermediate_size": 30, **shape}))
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_class_token_alone_in_the_last_block(layers: int) -> None:
    model = random_vit(num_hidden_layers=layers)
    pixels = torch.randn(5, 3, 8, 8)
    fast, plain = (model.features(pixels, last_block=kind) for kind in ("cls", "full"))
    torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-6)


def test_gradients_of_both_last_blocks_agree() -> None:
    grads = []
    for kind in ("cls", "full"):
        model = random_vit()
        torch.manual_seed(1)
        model.features(torch.randn(4, 3, 8, 8), last_block=kind).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for fast, plain in zip(*grads, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


def test_features_of_one_image_do_not_depend_on_the_batch() -> None:
    model = random_vit()
    pixels = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(model.features(pixels)[2:3], model.features(pixels[2:3]))


@pytest.mark.parametrize("side", [4, 6, 8, 12])
def test_positions_are_interpolated(side: int) -> None:
    model = random_vit()
    assert model.embed(torch.randn(2, 3, side, side)).shape == (2, 1 + (side // 2) ** 2, 24)


def test_merged_weight_replaces_the_module() -> None:
    model = random_vit()
    pixels = torch.randn(2, 3, 8, 8)
    name = "layers.1.attention.v_proj"
    other = torch.randn(24, 24)
    adapted = model.features(pixels, Adaptation(merged={name: other}))
    with torch.no_grad():
        model.layers[1].attention.v_proj.weight.copy_(other)
    torch.testing.assert_close(adapted, model.features(pixels))


def test_module_names() -> None:
    assert random_vit().module_names(("q_proj", "o_proj")) == [
        "layers.0.attention.q_proj",
        "layers.0.attention.o_proj",
        "layers.1.attention.q_proj",
        "layers.1.attention.o_proj",
    ]
