"""Pairs on a language model's attention: merged, as branches, and in the stock model's weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from adaptable_cases import ALL, FAMILIES, loaded, memory, stock

from silva.adapters.tiers import NO_HEAD, AdapterPath, LoraPair, Tier
from silva.errors import ModelError
from silva.models.adapted_language import adaptation_of_language, adapted_model
from silva.models.attention_parts import Adaptable, all_weights, attention_weights, usual_targets
from silva.models.layers import Adaptation

TOKENS = torch.randint(0, 89, (2, 15), generator=torch.Generator().manual_seed(1))


def path_on(
    model: Adaptable, projections: tuple[str, ...], ranks: tuple[int, ...] = (2, 3)
) -> AdapterPath:
    """Random tiers, large enough to show."""
    draw = torch.Generator().manual_seed(3)
    tiers = []
    for name, rank in zip(("root", "leaf"), ranks, strict=False):
        pairs = {
            module: LoraPair(
                B=0.3 * torch.randn(w.shape[0], rank, generator=draw),
                A=0.3 * torch.randn(rank, w.shape[1], generator=draw),
            )
            for module, w in attention_weights(model, projections).items()
        }
        tiers.append(Tier(name, pairs, NO_HEAD, 2.0))  # type: ignore[arg-type]
    return AdapterPath(tuple(tiers))


def logits(model: Adaptable, adaptation: Adaptation) -> torch.Tensor:
    adapted, (n, length) = adapted_model(model, adaptation), TOKENS.shape
    positions = torch.arange(length).repeat(n)
    hidden = adapted.hidden(TOKENS.flatten(), positions, memory(model, [length] * n))
    return adapted.logits(hidden).view(n, length, -1)


@torch.no_grad()
def with_updates(model: Any, path: AdapterPath) -> torch.Tensor:
    """The stock model's logits with every update added to its own weight."""
    for module in path.modules():
        model.get_submodule(f"model.{module}").weight.add_(path.update(module))
    found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize("every", [False, True], ids=["usual", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_and_branches_equal_the_stock_model_with_the_updates_in_its_weights(
    tmp_path: Path, family: str, every: bool
) -> None:
    model = loaded(tmp_path, family)
    path = path_on(model, ALL[family] if every else usual_targets(model))
    wanted = with_updates(stock(family), path)
    with torch.no_grad():
        plain = logits(model, Adaptation())
        for merged in (True, False):
            found = logits(model, adaptation_of_language(path, model, merged=merged))
            assert float((found - wanted).abs().max()) < 1e-5
    assert float((wanted - plain).abs().max()) > 1e-2


def test_modules_are_named_layer_by_layer_and_share_the_models_memory(tmp_path: Path) -> None:
    model = loaded(tmp_path, "smollm2")
    found = attention_weights(model, ("q_proj", "v_proj"))
    names = [f"layers.{n}.self_attn.{p}" for n in range(3) for p in ("q_proj", "v_proj")]
    assert list(found) == names
    c = model.config
    assert found[names[0]].shape == (c.heads * c.head_size, c.hidden_size)
    assert found[names[1]].shape == (c.kv_heads * c.head_size, c.hidden_size)


@pytest.mark.parametrize("family", ["smollm2", "v3", "v2 lite"])
def test_gradients_reach_the_pairs_and_nothing_else(tmp_path: Path, family: str) -> None:
    model = loaded(tmp_path, family)
    pairs = path_on(model, ALL[family], (2,)).tiers[0].pairs
    for pair in pairs.values():
        pair.A.requires_grad_(True)
        pair.B.requires_grad_(True)
    branches = {name: ((pair, 2.0),) for name, pair in pairs.items()}
    logits(model, Adaptation(branches=branches)).square().mean().backward()
    assert all(bool(t.grad.abs().sum() > 0) for p in pairs.values() for t in (p.A, p.B))
    assert not any(w.requires_grad for w in all_weights(model).values())


def test_a_pair_of_another_model_is_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path, "smollm2")
    for module, rows in (("layers.9.self_attn.q_proj", 48), ("layers.0.self_attn.v_proj", 48)):
        pair = LoraPair(torch.zeros(rows, 2), torch.zeros(2, 48))
        path = AdapterPath((Tier("root", {module: pair}, NO_HEAD, 1.0),))
        with pytest.raises(ModelError):
            adaptation_of_language(path, model, merged=True)
