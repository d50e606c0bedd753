"""A forest on a model with latent attention and experts, and stock transformers with PEFT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")
import peft
import transformers
from tiny_text import config, save_latent_model, save_texts

from silva.adapters.peft import export_peft, import_peft
from silva.adapters.tiers import NO_HEAD
from silva.api import Forest
from silva.data import histogram
from silva.errors import ConfigError
from silva.federation import report
from silva.federation.tune import tune
from silva.models.adapted_language import adaptation_of_language, adapted_model
from silva.models.attention_parts import adaptable
from silva.models.language_loader import load_language_model
from silva.models.latent import CausalLatents

TARGETS = {"v3": ("q_b_proj", "kv_a_proj_with_mqa"), "moonlight": ("q_proj", "kv_a_proj_with_mqa")}


@pytest.fixture(scope="module", autouse=True)
def no_plots() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "render_plots", lambda *_: {})
        patch.setattr(histogram, "draw_histogram", lambda *given: None)
        yield


@pytest.fixture(scope="module", params=TARGETS)
def shape(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def world(shape: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, texts, and the forest that they grew."""
    folder = tmp_path_factory.mktemp("latents")
    save_latent_model(folder / "model", shape)
    save_texts(folder / "texts")
    tune(config(folder), folder / "forest")
    return folder


def test_pairs_sit_on_queries_and_latents_and_perplexity_falls(world: Path, shape: str) -> None:
    forest = Forest.load(world / "forest")
    assert forest.manifest.adapter.targets == TARGETS[shape]
    assert len(forest.clusters) == 2 and forest.verify().sound
    for tier in forest.path(forest.clients[0]).tiers:
        assert len(tier.pairs) == 2 * 3 and all(pair.B.any() for pair in tier.pairs.values())
    tiers = json.loads((world / "forest" / "report" / "summary.json").read_text())["tiers"]
    assert tiers["leaf"]["mean"] < tiers["cluster"]["mean"] < tiers["root"]["mean"]


@pytest.mark.parametrize("form", ["plain", "absorbed"])
def test_stock_transformers_and_peft_give_the_same_logits(
    world: Path, tmp_path: Path, form: Any
) -> None:
    forest = Forest.load(world / "forest")
    client = next(n for n in forest.clients if forest.client(n).leaf)
    export_peft(forest.path(client), tmp_path, base_id=forest.base.id, class_names=())
    stock = transformers.AutoModelForCausalLM.from_pretrained(str(world / "model")).eval()
    tokens = torch.randint(0, 420, (40,), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        plain = stock(tokens[None]).logits[0].clone()
        theirs = peft.PeftModel.from_pretrained(stock, str(tmp_path))(tokens[None]).logits[0]
        model = adaptable(load_language_model(world / "model"))
        how = adaptation_of_language(forest.path(client), model, merged=True)
        ours = adapted_model(model, how)
        hidden = ours.hidden(tokens, torch.arange(40), CausalLatents([40], form))
        found = ours.logits(hidden)
    assert float((found - theirs).abs().max()) < 1e-4
    assert float((found - plain).abs().max()) > 1e-3
    again = import_peft(tmp_path, head=NO_HEAD, class_names=()).pairs
    wanted = forest.path(client).flattened().pairs
    assert all(torch.equal(again[module].B, pair.B) for module, pair in wanted.items())


def test_projections_that_the_model_has_not_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no projection 'k_proj'") as caught:
        tune(config(world, targets=["o_proj", "k_proj"]), tmp_path / "forest")
    assert "kv_a_proj_with_mqa" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
