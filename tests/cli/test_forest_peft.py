"""A grown forest in stock PEFT on a stock transformers ViT, and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from calls import World, digests, done, refused, seen_client

from silva import api
from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.forest import Forest
from silva.adapters.manifest import BaseModel
from silva.adapters.peft import import_peft
from silva.adapters.routing import signature
from silva.adapters.tiers import AdapterPath, Head, LoraPair, Tier, TierName
from silva.data.open import open_dataset
from silva.errors import ConfigError, ForestError
from silva.federation.classification import Classification
from silva.federation.features import ClientData
from silva.federation.heads import class_statistics, discriminant_head
from silva.models.adapted import adaptation_of
from silva.models.backbone import Backbone
from silva.models.layers import Adaptation
from silva.models.registry import ASSETS, load_backbone

peft = pytest.importorskip("peft")
Pairs = Callable[[int], dict[str, LoraPair]]
PIXELS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def planted(folder: Path, base: Backbone, pairs: Pairs, heads: Sequence[Head], rank: int) -> Forest:
    """A forest of one path, client c-0 below cluster-0; pairs and head of tier n by number."""
    names: tuple[TierName, ...] = ("root", "cluster", "leaf")
    root, cluster, leaf = (Tier(t, pairs(n), heads[n], 2.0) for n, t in enumerate(names))
    bases = signature({module: pair.B for module, pair in cluster.pairs.items()})
    change = Change(
        root=root,
        clusters={"cluster-0": NewCluster(cluster, bases)},
        clients={"c-0": NewClient(leaf=leaf, cluster="cluster-0")},
    )
    adapter = {"rank": rank, "alpha": 2.0 * rank, "targets": ["q_proj", "v_proj"]}
    classes = [f"class {n}" for n in range(len(heads[0].bias))]
    return Forest.create(folder, BaseModel(base.id, base.digest), adapter, classes, change)


@pytest.fixture
def small(world: World, tmp_path: Path) -> Forest:
    """Random tiers on the tiny backbone, with logits of order 1 (those of the grown forest are not)."""
    heads = [tiny.random_head(n) for n in range(3)]
    base = load_backbone(str(world.vit))
    return planted(tmp_path / "small", base, tiny.random_pairs, heads, rank=2)


@torch.no_grad()
def ours(forest: Forest, name: str, pixels: torch.Tensor = PIXELS) -> torch.Tensor:
    """silva's logits for a client, a cluster or the root."""
    path, model = forest.path(name), load_backbone(forest.base.id).model
    head = (path.head.weight, path.head.bias)
    return model(pixels, head, adaptation_of(path, model, merged=False))


@torch.no_grad()
def ours_in_float64(forest: Forest, name: str, pixels: torch.Tensor) -> torch.Tensor:
    path, model = forest.path(name), load_backbone(forest.base.id).model.double()
    added = {
        n: model.get_parameter(f"{n}.weight").detach() + path.update(n).double()
        for n in path.modules()
    }
    head = (path.head.weight.double(), path.head.bias.double())
    return model(pixels.double(), head, Adaptation(merged=added))


def stock(world: World) -> Any:
    """The same backbone as transformers reads it, with a classifier that means nothing."""
    from transformers import ViTForImageClassification

    return ViTForImageClassification.from_pretrained(str(world.vit), num_labels=4).eval()


@torch.no_grad()
def theirs(model: Any, pixels: torch.Tensor = PIXELS) -> torch.Tensor:
    return model.eval()(pixels).logits


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal to 1e-5, which says something while logits are of order 1."""
    assert 0.1 < float(wanted.abs().max()) < 30
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


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


def test_a_path_as_one_adapter_gives_our_logits(
    world: World, small: Forest, tmp_path: Path
) -> None:
    done("forest", "export", small.folder, "--client", "c-0", "--peft", tmp_path / "whole")
    model = peft.PeftModel.from_pretrained(stock(world), str(tmp_path / "whole"))
    assert model.peft_config["default"].r == 3 * small.manifest.adapter.rank
    near(theirs(model), ours(small, "c-0"))
    assert not torch.allclose(ours(small, "c-0"), ours(small, "root"), atol=1e-3)


def test_a_stack_of_tiers_gives_our_logits(world: World, small: Forest, tmp_path: Path) -> None:
    stack = tmp_path / "stack"
    done("forest", "export", small.folder, "--client", "c-0", "--stack", "--peft", stack)
    names = ["tier-root", "tier-cluster", "tier-leaf"]
    assert sorted(p.name for p in stack.iterdir()) == sorted(names)
    first, *others = names
    model = peft.PeftModel.from_pretrained(stock(world), str(stack / first), adapter_name=first)
    for name in others:
        model.load_adapter(str(stack / name), adapter_name=name)
    model.base_model.set_adapter(names, inference_mode=True)
    near(theirs(model), ours(small, "c-0"))


def test_the_root_alone_gives_our_logits(world: World, small: Forest, tmp_path: Path) -> None:
    done("forest", "export", small.folder, "--tier", "root", "--peft", tmp_path / "root")
    model = peft.PeftModel.from_pretrained(stock(world), str(tmp_path / "root"))
    near(theirs(model), ours(small, "root"))


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


def drawn(seed: int) -> dict[str, LoraPair]:
    """Pairs as a reset leaves them: orthonormal B, the scale in A."""
    generator, model = torch.Generator().manual_seed(seed), load_backbone("silva-vit-tiny").model
    side = model.config.hidden_size
    return {
        name: LoraPair(
            B=torch.linalg.qr(torch.randn(side, 8, generator=generator))[0].contiguous(),
            A=0.02 * torch.randn(8, side, generator=generator),
        )
        for name in model.module_names()
    }


def test_on_the_shipped_backbone_logits_are_equal_to_a_millionth_of_the_largest(
    tmp_path: Path,
) -> None:
    """Discriminants give logits in the hundreds: there float32 itself is no finer than 1e-5.

    In float64 the same adapter gives the same logits to 1e-5.
    """
    from transformers import ViTForImageClassification

    base, shown = load_backbone("silva-vit-tiny"), open_dataset("embedded")
    rows = np.arange(0, len(shown), 25)
    pixels = base.pixels(shown.source.load(rows, base.side))
    data, classes = ClientData(pixels, torch.from_numpy(shown.labels[rows]).long()), 10
    head = discriminant_head([class_statistics(Classification(base.model, classes), data)])
    forest = planted(tmp_path / "forest", base, drawn, [head] * 3, rank=8)
    done("forest", "export", forest.folder, "--client", "c-0", "--peft", tmp_path / "whole")
    plain = ViTForImageClassification.from_pretrained(
        str(ASSETS / "silva-vit-tiny"), num_labels=classes, ignore_mismatched_sizes=True
    )
    model = peft.PeftModel.from_pretrained(plain.eval(), str(tmp_path / "whole"))
    wanted = ours(forest, "c-0", pixels[:32])
    largest = float(wanted.abs().max())
    assert largest > 100
    found = theirs(model, pixels[:32])
    torch.testing.assert_close(found, wanted, atol=1e-6 * largest, rtol=0)
    exact = theirs(model.double(), pixels[:32].double())
    ours_exact = ours_in_float64(forest, "c-0", pixels[:32])
    torch.testing.assert_close(exact, ours_exact, atol=1e-5, rtol=0)


def test_export_refuses_a_folder_that_is_in_use(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    words = ["forest", "export", world.forest, "--tier", "root", "--peft", tmp_path / "mine"]
    assert "exists already" in refused(tmp_path, *words)


def test_the_python_calls_do_what_the_commands_do(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.forest, tmp_path / "forest")
    forest = api.Forest.load(tmp_path / "forest")
    client = next(name for name in forest.clients if forest.client(name).leaf)
    assert forest.export_peft(tmp_path / "path", client=client) == (client,)
    grown = forest.import_peft(tmp_path / "path", client="copy", cluster="")
    assert grown.version == forest.version + 1
    assert grown.client("copy").leaf == forest.client(client).leaf
    assert grown.client("copy").cluster == forest.client(client).cluster
    stacked = forest.export_peft(tmp_path / "stack", tier=forest.clusters[0], stack=True)
    assert len(stacked) == 2
    with pytest.raises(ForestError, match="someone else committed"):
        forest.import_peft(tmp_path / "path", client="late")
    with pytest.raises(ConfigError, match="no tier 'cluster-9'"):
        grown.export_peft(tmp_path / "none", tier="cluster-9")
