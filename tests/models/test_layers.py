from __future__ import annotations

import pytest
import torch
from torch import nn

from silva.adapters.tiers import AdapterPath, Head, LoraPair, Tier, TierName
from silva.errors import ModelError
from silva.models.adapted import adaptation_of, linear_of
from silva.models.layers import ACTIVATIONS, NO_ADAPTATION, Adaptation, adapted_linear
from silva.models.vit import ViT, ViTConfig

CONFIG = ViTConfig(
    image_size=8,
    patch_size=4,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
)


def random_vit(seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    model = ViT(CONFIG)
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model.requires_grad_(False).eval()


def random_tier(model: ViT, name: TierName, rank: int, modules: list[str]) -> Tier:
    pairs = {}
    for module in modules:
        out, width = linear_of(model, module).weight.shape
        pairs[module] = LoraPair(torch.randn(out, rank) * 0.2, torch.randn(rank, width) * 0.2)
    head = Head(torch.randn(5, CONFIG.hidden_size), torch.randn(5))
    return Tier(name, pairs, head, scaling=2.0 / rank)


def test_branches_equal_merged_weight() -> None:
    torch.manual_seed(1)
    linear = nn.Linear(7, 5)
    pair = LoraPair(torch.randn(5, 3), torch.randn(3, 7))
    x = torch.randn(2, 4, 7)
    branch = adapted_linear(x, linear, "m", Adaptation(branches={"m": [(pair, 0.5)]}))
    weight = linear.weight + 0.5 * pair.product()
    merged = adapted_linear(x, linear, "m", Adaptation(merged={"m": weight}))
    torch.testing.assert_close(branch, merged, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(adapted_linear(x, linear, "m", NO_ADAPTATION), linear(x))


def test_merged_and_plain_path_agree_with_a_rank_per_tier() -> None:
    model = random_vit()
    qv = model.module_names()
    tiers = (
        random_tier(model, "root", 4, [*qv, "layers.1.mlp.fc1", "layers.0.mlp.fc2"]),
        random_tier(model, "cluster", 2, qv),
        random_tier(model, "leaf", 1, qv[:1]),
    )
    path = AdapterPath(tiers)
    pixels = torch.randn(6, 3, 8, 8)
    head = (path.head.weight, path.head.bias)
    plain = model(pixels, head, adaptation_of(path, model, merged=False))
    fast = model(pixels, head, adaptation_of(path, model, merged=True))
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    assert (plain - model(pixels, head)).abs().max() > 1e-2


def test_merging_leaves_the_model_alone() -> None:
    model = random_vit()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = AdapterPath((random_tier(model, "root", 2, model.module_names()),))
    adaptation = adaptation_of(path, model, merged=True)
    assert set(adaptation.merged) == set(model.module_names())
    assert not adaptation.branches
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_merging_takes_no_gradients_and_branches_do() -> None:
    model = random_vit()
    tier = random_tier(model, "root", 2, model.module_names())
    for pair in tier.pairs.values():
        pair.B.requires_grad_()
    path = AdapterPath((tier,))
    merged = adaptation_of(path, model, merged=True).merged.values()
    assert not any(weight.requires_grad for weight in merged)
    pixels, head = torch.randn(2, 3, 8, 8), (path.head.weight, path.head.bias)
    model(pixels, head, adaptation_of(path, model, merged=False)).sum().backward()
    assert all(pair.B.grad is not None for pair in tier.pairs.values())


@pytest.mark.parametrize("module", ["layers.9.attention.q_proj", "layernorm", "../x", ""])
def test_unknown_module(module: str) -> None:
    with pytest.raises(ModelError, match="no linear module"):
        linear_of(random_vit(), module)


@pytest.mark.parametrize("shapes", [((23, 2), (2, 24)), ((24, 2), (2, 23)), ((24, 2), (3, 24))])
def test_pair_that_does_not_fit(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    b, a = shapes
    pairs = {"layers.0.attention.q_proj": LoraPair(torch.zeros(*b), torch.zeros(*a))}
    path = AdapterPath((Tier("root", pairs, Head(torch.zeros(2, 24), torch.zeros(2)), 1.0),))
    with pytest.raises(ModelError, match="does not fit"):
        adaptation_of(path, random_vit(), merged=False)


def test_activations_equal_those_of_transformers() -> None:
    activations = pytest.importorskip("transformers.activations")
    x = torch.linspace(-6, 6, 200)
    for name, function in ACTIVATIONS.items():
        torch.testing.assert_close(
            function(x), activations.ACT2FN[name](x), atol=1e-5, rtol=1e-5, msg=name
        )


def test_bfloat16_products_stay_close_to_float32_and_reach_the_pairs() -> None:
    torch.manual_seed(3)
    linear = torch.nn.Linear(24, 40).requires_grad_(False)
    x = torch.randn(6, 24)
    found = []
    for matmul in (torch.float32, torch.bfloat16):
        inputs = x.clone().requires_grad_()
        pair = LoraPair(B=torch.ones(40, 2).requires_grad_(), A=torch.ones(2, 24).requires_grad_())
        adaptation = Adaptation(branches={"m": [(pair, 0.5)]}, matmul=matmul)
        y = adapted_linear(inputs, linear, "m", adaptation)
        y.square().sum().backward()
        assert y.dtype == torch.float32
        found.append((y, inputs.grad, pair.A.grad, pair.B.grad))
    for exact, fast in zip(*found, strict=True):
        assert exact is not None and fast is not None
        assert float((exact - fast).detach().norm() / exact.detach().norm()) < 1e-2
