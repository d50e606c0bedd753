"""A grown forest in stock PEFT on a stock transformers ViT, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from calls import World, digests, done, refused, seen_client

from silva.adapters.forest import Forest
from silva.adapters.peft import import_peft
from silva.adapters.tiers import AdapterPath, Tier
from silva.models.adapted import adaptation_of
from silva.models.registry import load_backbone

peft = pytest.importorskip("peft")
PIXELS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def ours(world: World, name: str) -> torch.Tensor:
    """silva's logits for a client, a cluster or the root."""
    path, model = Forest.load(world.forest).path(name), load_backbone(str(world.vit)).model
    head = (path.head.weight, path.head.bias)
    return model(PIXELS, head, adaptation_of(path, model, merged=False))


def stock(world: World) -> Any:
    """The same backbone as transformers reads it, with a classifier that means nothing."""
    from transformers import ViTForImageClassification

    return ViTForImageClassification.from_pretrained(str(world.vit), num_labels=4).eval()


@torch.no_grad()
def theirs(model: Any) -> torch.Tensor:
    return model.eval()(PIXELS).logits


def same_tier(one: Tier, other: Tier) -> bool:
    return (
        one.scaling == other.scaling
        and one.pairs.keys() == other.pairs.keys()
        and all(
            torch.equal(pair.A, other.pairs[name].A) and torch.equal(pair.B, other.pairs[name].B)
            for name, pair in one.pairs.items()
        )
        and torch.equal(one.head.weight, other.head.weight)
        and torch.equal(one.head.bias, other.head.bias)
    )


def test_a_path_as_one_adapter_gives_our_logits(world: World, tmp_path: Path) -> None:
    client = seen_client(world.forest)
    done("forest", "export", world.forest, "--client", client, "--peft", tmp_path / "whole")
    model = peft.PeftModel.from_pretrained(stock(world), str(tmp_path / "whole"))
    assert model.peft_config["default"].r == 3 * Forest.load(world.forest).manifest.adapter.rank
    assert torch.allclose(theirs(model), ours(world, client), atol=1e-5)
    assert not torch.allclose(ours(world, client), ours(world, "root"), atol=1e-3)


def test_a_stack_of_tiers_gives_our_logits(world: World, tmp_path: Path) -> None:
    client, stack = seen_client(world.forest), tmp_path / "stack"
    done("forest", "export", world.forest, "--client", client, "--stack", "--peft", stack)
    names = ["tier-root", "tier-cluster", "tier-leaf"]
    assert sorted(p.name for p in stack.iterdir()) == sorted(names)
    first, *others = names
    model = peft.PeftModel.from_pretrained(stock(world), str(stack / first), adapter_name=first)
    for name in others:
        model.load_adapter(str(stack / name), adapter_name=name)
    model.base_model.set_adapter(names, inference_mode=True)
    assert torch.allclose(theirs(model), ours(world, client), atol=1e-5)


def test_the_root_alone_gives_our_logits(world: World, tmp_path: Path) -> None:
    done("forest", "export", world.forest, "--tier", "root", "--peft", tmp_path / "root")
    model = peft.PeftModel.from_pretrained(stock(world), str(tmp_path / "root"))
    assert torch.allclose(theirs(model), ours(world, "root"), atol=1e-5)


@pytest.mark.parametrize("version", [4, 5])
def test_exported_tiers_come_back_as_the_same_objects(
    world: World, forest: Path, tmp_path: Path, version: int
) -> None:
    client, before = seen_client(forest), digests(forest)
    cluster = before["clients"][client][0]
    export = ["forest", "export", forest, "--transformers", version]
    for tier in ("root", cluster):
        done(*export, "--tier", tier, "--peft", tmp_path / tier)
        done("forest", "import", forest, "--tier", tier, "--peft", tmp_path / tier)
    done(*export, "--client", client, "--stack", "--peft", tmp_path / "stack")
    leaf = tmp_path / "stack" / "tier-leaf"
    done("forest", "import", forest, "--client", "twin", "--cluster", cluster, "--peft", leaf)
    after = digests(forest)
    assert after["clients"]["twin"][:2] == before["clients"][client][:2]
    del after["clients"]["twin"]
    assert after == before


def test_the_whole_path_comes_back_as_one_tier_of_the_summed_rank(
    world: World, tmp_path: Path
) -> None:
    client = seen_client(world.forest)
    done("forest", "export", world.forest, "--client", client, "--peft", tmp_path / "whole")
    path = Forest.load(world.forest).path(client)
    found = import_peft(tmp_path / "whole", class_names=Forest.load(world.forest).class_names)
    assert same_tier(found, path.flattened())
    for module in path.modules():
        assert torch.allclose(AdapterPath((found,)).update(module), path.update(module), atol=1e-6)


def test_export_refuses_a_folder_that_is_in_use(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    words = ["forest", "export", world.forest, "--tier", "root", "--peft", tmp_path / "mine"]
    assert "exists already" in refused(tmp_path, *words)
