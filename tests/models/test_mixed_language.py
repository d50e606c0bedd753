"""Rows of many paths in one pass give what each gives alone through `adapted_model`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from adaptable_cases import ALL, FAMILIES, loaded, memory

from silva.adapters.tiers import NO_HEAD, AdapterPath, LoraPair, Tier, TierName
from silva.errors import ModelError
from silva.models.adapted_language import adaptation_of_language, adapted_model
from silva.models.attention_parts import Adaptable, attention_weights, usual_targets
from silva.models.mixed import PackedTier, runs_of
from silva.models.mixed_language import mixed, pack

LENGTH = 7


def tier_on(model: Adaptable, name: TierName, projections: tuple[str, ...], rank: int) -> Tier:
    draw = torch.Generator().manual_seed(rank + 31 * len(projections))
    pairs = {
        module: LoraPair(
            B=0.3 * torch.randn(w.shape[0], rank, generator=draw),
            A=0.3 * torch.randn(rank, w.shape[1], generator=draw),
        )
        for module, w in attention_weights(model, projections).items()
    }
    return Tier(name, pairs, NO_HEAD, 2.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_many_paths_are_what_each_is_alone(family: str, tmp_path: Path) -> None:
    model = loaded(tmp_path, family)
    usual = usual_targets(model)
    root = tier_on(model, "root", usual, 3)
    clusters = [tier_on(model, "cluster", usual, n) for n in (2, 5)]
    leaves = [
        tier_on(model, "leaf", projections, n)
        for n, projections in ((1, usual[1:]), (4, ALL[family]))
    ]
    paths: list[tuple[Tier, ...]] = [
        (),
        (root,),
        (root, clusters[0]),
        (root, clusters[0], leaves[0]),
        (root, clusters[0], leaves[1]),
        (root, clusters[1], leaves[0]),
    ]
    draw = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 89, (len(paths), LENGTH), generator=draw)
    positions = torch.arange(LENGTH).repeat(len(paths))
    kept: dict[int, PackedTier] = {}
    packed = [[kept.setdefault(id(t), pack(t, model)) for t in path] for path in paths]
    runs = runs_of(packed, np.full(len(paths), LENGTH, np.int32))
    together = mixed(model, runs)
    with torch.inference_mode():
        hidden = together.hidden(tokens.flatten(), positions, memory(model, [LENGTH] * len(paths)))
        for n, path in enumerate(paths):
            adaptation = adaptation_of_language(AdapterPath(path), model, merged=False)
            alone = adapted_model(model, adaptation)
            wanted = alone.hidden(tokens[n], positions[:LENGTH], memory(model, [LENGTH]))
            found = hidden[n * LENGTH : (n + 1) * LENGTH]
            torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)
            if n:
                base = model.hidden(tokens[n], positions[:LENGTH], memory(model, [LENGTH]))
                assert not torch.allclose(found, base, atol=1e-2)


def test_without_runs_the_model_is_itself(tmp_path: Path) -> None:
    model = loaded(tmp_path, "smollm2")
    assert mixed(model, []) is model


def test_a_tier_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path / "one", "smollm2")
    tier = tier_on(model, "root", ("q_proj",), 2)
    deeper = dict(tier.pairs) | {"layers.9.self_attn.q_proj": next(iter(tier.pairs.values()))}
    with pytest.raises(ModelError, match=r"no projection 'layers\.9\.self_attn\.q_proj'"):
        pack(Tier("root", deeper, NO_HEAD, 2.0), model)
    wide = {name: LoraPair(B=torch.zeros(3, 2), A=pair.A) for name, pair in tier.pairs.items()}
    with pytest.raises(ModelError, match="does not fit a weight"):
        pack(Tier("root", wide, NO_HEAD, 2.0), model)


def test_bytes_of_a_packed_tier_are_those_of_its_pairs(tmp_path: Path) -> None:
    model = loaded(tmp_path, "smollm2")
    tier = tier_on(model, "root", ("q_proj", "o_proj"), 3)
    pairs = tier.pairs.values()
    assert pack(tier, model).size_bytes == sum(4 * (p.A.numel() + p.B.numel()) for p in pairs)
