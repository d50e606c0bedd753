from __future__ import annotations

import pytest
import torch

from silva.adapters.tiers import AdapterPath, Head, LoraPair, Tier, TierName
from silva.errors import ModelError
from silva.models.adapted import adaptation_of, linear_of
from silva.models.vit import ViT, ViTConfig

SHAPE = ViTConfig(
    image_size=8,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
)
SIDES = {"attention.q_proj": (16, 16), "attention.v_proj": (16, 16), "mlp.fc1": (24, 16)}


def model() -> ViT:
    torch.manual_seed(0)
    vit = ViT(SHAPE).eval()
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vit


def tier(name: TierName, seed: int, rank: int, scaling: float) -> Tier:
    g = torch.Generator().manual_seed(seed)
    pairs = {
        f"layers.{n}.{module}": LoraPair(
            B=0.3 * torch.randn(rows, rank, generator=g),
            A=0.3 * torch.randn(rank, columns, generator=g),
        )
        for n in range(SHAPE.num_hidden_layers)
        for module, (rows, columns) in SIDES.items()
    }
    head = Head(torch.randn(3, SHAPE.hidden_size, generator=g), torch.zeros(3))
    return Tier(name, pairs, head, scaling)


PATH = AdapterPath((tier("root", 1, 4, 2.0), tier("cluster", 2, 2, 1.0), tier("leaf", 3, 3, 0.5)))


@torch.no_grad()
def logits(vit: ViT, path: AdapterPath, *, merged: bool) -> torch.Tensor:
    pixels = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    head = (path.head.weight, path.head.bias)
    return vit(pixels, head, adaptation_of(path, vit, merged=merged))


def test_merged_weights_and_branches_give_the_same_logits() -> None:
    vit = model()
    plain = logits(vit, PATH, merged=False)
    assert torch.allclose(logits(vit, PATH, merged=True), plain, atol=1e-5)
    root = logits(vit, AdapterPath(PATH.tiers[:1]), merged=True)
    assert not torch.allclose(root, plain, atol=1e-2)


def test_merging_leaves_the_model_alone() -> None:
    vit = model()
    before = {name: weight.clone() for name, weight in vit.state_dict().items()}
    logits(vit, PATH, merged=True)
    assert all(torch.equal(weight, before[name]) for name, weight in vit.state_dict().items())


def test_merged_weight_is_the_sum_of_the_tiers() -> None:
    vit, name = model(), "layers.1.mlp.fc1"
    found = adaptation_of(PATH, vit, merged=True).merged[name]
    wanted = linear_of(vit, name).weight + PATH.update(name)
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "module", ["layers.2.attention.q_proj", "layers.0", "layers.0.attention", "", "x" * 500]
)
def test_a_module_that_the_model_lacks_is_named(module: str) -> None:
    with pytest.raises(ModelError, match="no linear module") as caught:
        linear_of(model(), module)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "rank_of_b"), [(15, 16, 2), (16, 15, 2), (24, 16, 2), (16, 16, 3)]
)
def test_a_pair_of_another_shape_is_refused(
    rows: int, columns: int, rank_of_b: int, merged: bool
) -> None:
    pair = LoraPair(B=torch.zeros(rows, rank_of_b), A=torch.zeros(2, columns))
    head = Head(torch.zeros(3, 16), torch.zeros(3))
    path = AdapterPath((Tier("root", {"layers.0.attention.q_proj": pair}, head, 1.0),))
    with pytest.raises(ModelError, match="does not fit"):
        adaptation_of(path, model(), merged=merged)
