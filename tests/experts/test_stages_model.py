"""A whole model over ranks that share its steps: experts, drafts, blocks, and ranks that die."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from group_cases import EndedError, run_group, save_random
from plain_latents import PlainLatents
from torch import Tensor

from silva.experts import futex
from silva.experts.ranked import RankedModel
from silva.experts.spread import Spread
from silva.experts.stages import StagedModel, gathered
from silva.experts.trade import Goods
from silva.models.deepseek_loader import load_deepseek
from silva.models.latent import CausalLatents, LatentHeads
from silva.serving.engine.attend import PagedLatents
from silva.serving.engine.kv import KVMemory, KVShape

pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
LENGTHS = [9, 1, 4]
TOKENS = torch.tensor([5, 17, 3, 80, 1, 2, 3, 4, 5, 6, 44, 45, 9, 33])
POSITIONS = torch.cat([torch.arange(n) for n in LENGTHS])
BLOCK = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with experts in two layers and in a draft module."""
    return save_random(tmp_path_factory.mktemp("m") / "tiny", num_nextn_predict_layers=1)


def computed(model: Any, attend: Any = None) -> Tensor:
    """Logits of all positions of a packed step."""
    with torch.inference_mode():
        memory = CausalLatents(LENGTHS) if attend is None else attend
        return model.logits(model.hidden(TOKENS, POSITIONS, memory))


def stages_of(ranked: RankedModel) -> StagedModel:
    staged = ranked.model
    assert isinstance(staged, StagedModel)
    return staged


@pytest.mark.parametrize("shape", ["v3", "moonlight"])
def test_logits_equal_transformers(shape: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from deepseek_cases import logits_in_steps, random_hf, save_hf, tokens_of

    model, stock = save_hf(tmp_path / "model", shape), random_hf(shape)
    sequences = {"a": tokens_of(13, 1), "b": tokens_of(9, 2)}
    steps = [{"a": 5}, {"b": 9, "a": 7}, {"a": 1}]

    def work(rank: int, ranked: Any) -> Any:
        return logits_in_steps(ranked, sequences, steps)

    for ranks in (1, 2, 4):
        spread = Spread(ranks, local_batch=4, staged=True)
        for found in run_group(model, spread, tmp_path / f"run-{ranks}", work):
            for name, tokens in sequences.items():
                with torch.no_grad():
                    wanted = stock(torch.tensor([tokens])).logits[0]
                torch.testing.assert_close(found[name], wanted, atol=1e-4, rtol=1e-5)


def test_all_ranks_give_the_logits_and_the_blocks_of_one(folder: Path, tmp_path: Path) -> None:
    alone = load_deepseek(folder)
    wanted, blocks = in_blocks(alone)

    def work(rank: int, ranked: RankedModel) -> Any:
        return *in_blocks(ranked), stages_of(ranked).trade.traffic[Goods.LATENTS]

    for ranks in (2, 4):
        found = run_group(folder, Spread(ranks, staged=True), tmp_path / f"run-{ranks}", work)
        for logits, mine, _ in found:
            torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(mine, blocks, atol=1e-5, rtol=1e-5)
        c = alone.config
        sent = len(TOKENS) * (ranks - 1) * c.layers * gathered(c) * 4
        assert sum(of_rank for *_, of_rank in found) == sent


def in_blocks(model: Any) -> tuple[Tensor, Tensor]:
    """Logits of three prompts, two of them in chunks after a prefix; what is in all blocks then."""
    # Blocks of a sequence lie anywhere.
    tables = np.array([[6, 1, 3], [0, -1, -1], [5, -1, -1]], np.int32)
    shape = KVShape.of(model.config, BLOCK, torch.float32)
    memory = KVMemory(shape, 7, bytearray(7 * shape.block_bytes))
    starts, found = np.cumsum([0, *LENGTHS]), torch.zeros(len(TOKENS), model.config.vocab_size)
    for parts in ({0: (0, 6), 2: (0, 1)}, {2: (1, 4), 1: (0, 1), 0: (6, 9)}):
        rows, places = [], []
        for n, (begin, end) in parts.items():
            at = np.arange(begin, end)
            rows += (starts[n] + at).tolist()
            places += (tables[n, at // BLOCK].astype(np.int64) * BLOCK + at % BLOCK).tolist()
        counts = [end - begin for begin, end in parts.values()]
        contexts = np.array([end for _, end in parts.values()], np.int32)
        ends = np.cumsum([0, *counts]).astype(np.int32)
        attend = PagedLatents(memory, tables[list(parts)], ends, contexts, np.array(places))
        with torch.inference_mode():
            hidden = model.hidden(TOKENS[rows], POSITIONS[rows], attend)
            found[rows] = model.logits(hidden)
    return found, torch.stack([layer.clone() for layer in memory.latents])


def test_drafts_are_shared_too(folder: Path, tmp_path: Path) -> None:
    def draft(model: Any) -> Tensor:
        memory = PlainLatents()
        memory.step([("a", len(TOKENS) - 1)])
        positions = torch.arange(len(TOKENS) - 1)
        with torch.inference_mode():
            hidden = model.hidden(TOKENS[:-1], positions, memory)
            return model.logits(model.draft(hidden, TOKENS[1:], positions, memory))

    wanted = draft(load_deepseek(folder))
    spread = Spread(4, local_batch=2, staged=True)
    for found in run_group(folder, spread, tmp_path / "run", lambda rank, ranked: draft(ranked)):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("layer", [0, 2], ids=["first layer", "last layer"])
def test_a_step_that_loses_a_rank_is_computed_again(
    layer: int, folder: Path, tmp_path: Path
) -> None:
    class Dies(CausalLatents):
        def __call__(self, n: int, q: Tensor, latent: Tensor, heads: LatentHeads) -> Tensor:
            if n == layer:
                raise EndedError
            return super().__call__(n, q, latent, heads)

    def work(rank: int, ranked: RankedModel) -> Any:
        first = computed(ranked)
        second = computed(ranked, Dies(LENGTHS) if rank == 1 else None)
        return first, second, computed(ranked), ranked.repeated, sorted(ranked.group.alive())

    found = run_group(folder, Spread(4, rebalance_s=0.0, staged=True), tmp_path / "run", work)
    wanted = computed(load_deepseek(folder))
    assert found[1] is None
    for *logits, repeated, alive in (found[0], *found[2:]):
        assert repeated > 0 and alive == [0, 2, 3]
        for of_step in logits:
            torch.testing.assert_close(of_step, wanted, atol=1e-4, rtol=1e-5)


def test_who_has_no_step_takes_part_with_its_experts_alone(folder: Path, tmp_path: Path) -> None:
    def work(rank: int, ranked: RankedModel) -> Any:
        if rank > 1:
            return None
        return computed(ranked), stages_of(ranked).trade.traffic[Goods.LATENTS]

    found = run_group(folder, Spread(4, staged=True), tmp_path / "run", work)
    alone = load_deepseek(folder)
    wanted, c = computed(alone), alone.config
    for logits, _ in found[:2]:
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-5)
    assert sum(sent for _, sent in found[:2]) == len(TOKENS) * c.layers * gathered(c) * 4


def test_who_is_ahead_waits_for_the_one_behind_and_then_they_share(
    folder: Path, tmp_path: Path
) -> None:
    def work(rank: int, ranked: RankedModel) -> Any:
        staged = stages_of(ranked)
        if rank == 0:
            # As one that had all of a step when another one saw that a third had died.
            staged.steps = 1
            return [computed(ranked)], staged.trade.traffic[Goods.LATENTS]
        first = computed(ranked)
        assert staged.trade.traffic[Goods.LATENTS] == 0
        return [first, computed(ranked)], staged.trade.traffic[Goods.LATENTS]

    found = run_group(folder, Spread(2, staged=True), tmp_path / "run", work)
    alone = load_deepseek(folder)
    wanted, c = computed(alone), alone.config
    for logits, _ in found:
        for of_step in logits:
            torch.testing.assert_close(of_step, wanted, atol=1e-4, rtol=1e-5)
    assert sum(sent for _, sent in found) == len(TOKENS) * c.layers * gathered(c) * 4
