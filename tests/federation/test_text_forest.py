"""From folders of texts to a forest of a language model, and on to stock transformers and PEFT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")
import peft
import transformers
from tiny_text import config, save_model, save_texts

from silva.adapters.manifest import Manifest
from silva.adapters.peft import export_peft, import_peft
from silva.api import Forest
from silva.cli.forest_tree import tree_of
from silva.data import histogram
from silva.errors import DataError, ForestError
from silva.federation import report
from silva.federation.run import Progress
from silva.federation.tune import resume, tune
from silva.models.adapted_language import adaptation_of_language, adapted_model
from silva.models.attention import CausalAttention
from silva.models.attention_parts import adaptable
from silva.models.language_loader import load_language_model


@pytest.fixture(scope="module", autouse=True)
def no_plots() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "render_plots", lambda *_: {})
        patch.setattr(histogram, "draw_histogram", lambda *given: None)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, texts, and the forest that they grew."""
    folder = tmp_path_factory.mktemp("texts")
    save_model(folder / "model")
    save_texts(folder / "texts")
    tune(config(folder), folder / "forest")
    return folder


def seen(forest: Forest) -> str:
    return next(n for n in forest.clients if forest.client(n).leaf)


def ours(folder: Path, forest: Forest, name: str, tokens: torch.Tensor) -> torch.Tensor:
    """silva's logits for one sequence."""
    model = adaptable(load_language_model(folder / "model"))
    adapted = adapted_model(model, adaptation_of_language(forest.path(name), model, merged=True))
    positions = torch.arange(len(tokens))
    with torch.no_grad():
        return adapted.logits(adapted.hidden(tokens, positions, CausalAttention([len(tokens)])))


def test_the_forest_has_tiers_without_heads_and_perplexities(world: Path) -> None:
    forest = Forest.load(world / "forest")
    assert forest.verify().sound and forest.manifest.classes is None and not forest.class_names
    assert forest.clients == [f"ann-{n}" for n in range(6)]
    assert len(forest.clusters) == 2
    whole = forest.path(seen(forest))
    assert [t.name for t in whole.tiers] == ["root", "cluster", "leaf"]
    assert all(tier.head.classes == 0 for tier in whole.tiers)
    for name in forest.clients:
        entry = forest.client(name)
        assert not entry.accuracy and min(entry.perplexity.values()) >= 1 and entry.images == 12
        assert set(entry.perplexity) == {"root", "cluster"} | ({"leaf"} if entry.leaf else set())
    again = Manifest.from_bytes(forest.manifest.to_bytes(), "test")
    assert again == forest.manifest


def test_the_report_names_the_figure(world: Path) -> None:
    folder = world / "forest" / "report"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["figure"] == "perplexity" and summary["clusters"] == 2
    for tier in ("root", "cluster", "leaf"):
        found = summary["tiers"][tier]
        assert found["p10"] <= found["mean"] <= found["max"] and found["bits_per_byte_mean"] > 0
    assert summary["tiers"]["leaf"]["mean"] < summary["tiers"]["root"]["mean"]
    assert summary["control"]["head_only"]["mean"] is None and summary["unseen"]["zero_leaf"] > 1
    assert "head" not in summary["bytes"]
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    assert {"client", "tier", "loss", "total", "perplexity", "bits_per_byte"} <= set(rows[0])
    text = (folder / "tables.md").read_text()
    assert "Perplexity per tier" in text and "ccuracy" not in text


def test_a_new_client_is_routed_by_its_texts(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "forest", tmp_path / "forest")
    forest = Forest.load(tmp_path / "forest")
    name = seen(forest)
    added = forest.add("bea", str(world / "texts" / name), split="0.2")
    assert added.figure == "perplexity" and set(added.figures) == {"root", "cluster"}
    assert added.cluster in forest.clusters and set(added.similarities) == set(forest.clusters)
    entry = added.forest.client("bea")
    assert entry.perplexity == added.figures and not entry.seen and entry.leaf is None
    leaf = forest.add("cleo", str(world / "texts" / name / "a.txt"), leaf_epochs=1)
    assert leaf.figures == {} and leaf.forest.path("cleo").tiers[-1].name == "leaf"


@pytest.mark.parametrize("name", ["leaf", "root", "cluster-1"])
def test_stock_transformers_and_peft_give_the_same_logits(
    world: Path, tmp_path: Path, name: str
) -> None:
    forest = Forest.load(world / "forest")
    client = seen(forest) if name == "leaf" else name
    where = tmp_path / "peft"
    export_peft(forest.path(client), where, base_id=forest.base.id, class_names=forest.class_names)
    stock = transformers.AutoModelForCausalLM.from_pretrained(str(world / "model")).eval()
    tokens = torch.randint(0, 420, (40,), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        plain = stock(tokens[None]).logits[0].clone()
        theirs = peft.PeftModel.from_pretrained(stock, str(where))(tokens[None]).logits[0]
    found = ours(world, forest, client, tokens)
    assert float((found - theirs).abs().max()) < 1e-5
    assert float((found - plain).abs().max()) > 1e-4


def test_an_exported_tier_comes_back(world: Path, tmp_path: Path) -> None:
    forest = Forest.load(world / "forest")
    root = forest.path("root")
    export_peft(root.tiers[0], tmp_path / "p", base_id="x", class_names=forest.class_names)
    again = import_peft(
        tmp_path / "p",
        name="root",
        head=root.head,
        class_names=forest.class_names,
        modules=root.tiers[0].pairs,
    )
    for module, pair in root.tiers[0].pairs.items():
        assert torch.equal(again.pairs[module].A, pair.A)
        assert torch.equal(again.pairs[module].B, pair.B)


@pytest.mark.parametrize("stage", ["cluster", "leaf"])
def test_an_interrupted_run_ends_with_the_same_objects(
    world: Path, tmp_path: Path, stage: str
) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    out = tmp_path / "forest"
    with pytest.raises(KeyboardInterrupt):
        tune(config(world), out, stop)
    assert resume(out).manifest.objects == Forest.load(world / "forest").manifest.objects


def test_the_tree_of_a_forest_of_texts(world: Path) -> None:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as shown:
        console.print(tree_of(Forest.load(world / "forest"), 20))
    assert "mean perplexity" in shown.get() and "12 windows" in shown.get()
    assert "classes" not in shown.get()


def test_images_have_no_answer(world: Path) -> None:
    with pytest.raises(ForestError, match="language model"):
        Forest.load(world / "forest").predict("root", ["picture.png"])


def test_bad_data_are_refused_before_anything_is_written(world: Path, tmp_path: Path) -> None:
    good = config(world)
    for path in ("", str(tmp_path / "nowhere")):
        bad: Any = replace(good, data=replace(good.data, path=path))
        with pytest.raises(DataError):
            tune(bad, tmp_path / "forest")
    assert list(tmp_path.iterdir()) == []
