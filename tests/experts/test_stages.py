"""Attention in stages over 1, 2 and 4 ranks is attention in one place, and sends latents alone."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from deepseek_tiny import TINY
from plain_latents import PlainLatents
from trade_cases import Fixed, by_hand, random_model, run_trades

from silva.errors import ConfigError
from silva.experts import futex
from silva.experts.shared_trade import SharedTrade
from silva.experts.spread import Spread, group_shape, trade_sizes
from silva.experts.stages import StagedModel, check_heads, gathered
from silva.experts.trade import Goods
from silva.models.deepseek_config import DeepseekConfig, deepseek_config
from silva.models.latent import CausalLatents

pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")


def config_of(**changes: Any) -> DeepseekConfig:
    """Without experts."""
    raw = {**TINY, "model_type": "deepseek_v3", "n_routed_experts": 0, "num_hidden_layers": 2}
    return deepseek_config({**raw, **changes}, "here")


def prompts_of(lengths: list[int]) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return [torch.randint(0, 89, (length,), generator=source) for length in lengths]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("lengths", [[13], [5, 1, 9], [1], [1, 2]], ids=str)
@pytest.mark.parametrize("form", ["plain", "absorbed"])
def test_packed_prompts_are_the_formula(ranks: int, lengths: list[int], form: Any) -> None:
    # Some ranks have parts of two prompts, and some no tokens at all.
    model, prompts = random_model(config_of()), prompts_of(lengths)
    tokens = torch.cat(prompts)
    positions = torch.cat([torch.arange(n) for n in lengths])

    def work(trade: SharedTrade, company: Fixed) -> Any:
        with torch.inference_mode():
            attend = CausalLatents(lengths, form)
            return StagedModel(model, trade).hidden(tokens, positions, attend), trade.traffic

    wanted = torch.cat([by_hand(model, prompt) for prompt in prompts])
    found = run_trades(ranks, work, 300)
    for hidden, _ in found:
        # Angles of positions are float32.
        torch.testing.assert_close(hidden, wanted, atol=1e-5, rtol=1e-5)
        assert torch.equal(hidden, found[0][0])
    c, to_others = model.config, len(tokens) * (ranks - 1)
    sent = sum((traffic for _, traffic in found), Counter[Goods]())
    assert sent[Goods.LATENTS] == to_others * c.layers * gathered(c) * 8
    assert sent[Goods.HIDDEN] == to_others * c.hidden_size * 8
    by_rank = [c.heads // ranks + (n < c.heads % ranks) for n in range(ranks)]
    mine = [len(tokens) // ranks + (n < len(tokens) % ranks) for n in range(ranks)]
    away = sum(h * (len(tokens) - t) for h, t in zip(by_rank, mine, strict=True))
    assert sent[Goods.HEADS] == c.layers * away * c.value_size * 8


@pytest.mark.parametrize("ranks", [2, 4])
def test_chunks_continue_what_all_ranks_remember(ranks: int) -> None:
    model, prompts = random_model(config_of()), prompts_of([11, 6])
    steps = [{0: 4}, {1: 1, 0: 3}, {1: 5, 0: 1}, {0: 3}]

    def work(trade: SharedTrade, company: Fixed) -> Any:
        staged, memory, done = StagedModel(model, trade), PlainLatents(), [0, 0]
        found: list[list[torch.Tensor]] = [[], []]
        for step in steps:
            memory.step([(str(name), count) for name, count in step.items()])
            parts = {n: slice(done[n], done[n] + count) for n, count in step.items()}
            tokens = torch.cat([prompts[n][here] for n, here in parts.items()])
            positions = torch.cat([torch.arange(h.start, h.stop) for h in parts.values()])
            with torch.inference_mode():
                hidden = staged.hidden(tokens, positions, memory)
            for n, piece in zip(step, hidden.split(list(step.values())), strict=True):
                found[n].append(piece)
                done[n] += len(piece)
        return [torch.cat(pieces) for pieces in found], memory.kept

    for hidden, kept in run_trades(ranks, work, 300):
        for found, prompt in zip(hidden, prompts, strict=True):
            torch.testing.assert_close(found, by_hand(model, prompt), atol=1e-5, rtol=1e-5)
        assert {latents.shape[0] for latents in kept.values()} == {11, 6}


def test_latents_of_deepseek_v3_are_2112_values_a_token() -> None:
    v3 = config_of(q_lora_rank=1536, kv_lora_rank=512, qk_rope_head_dim=64)
    assert gathered(v3) == 1536 + 576
    model, (prompt,) = random_model(v3, torch.bfloat16), prompts_of([6])

    def work(trade: SharedTrade, company: Fixed) -> Any:
        with torch.inference_mode():
            StagedModel(model, trade).hidden(prompt, torch.arange(6), CausalLatents([6]))
        return trade.traffic[Goods.LATENTS]

    sent = run_trades(4, work, 8192)
    # Each token to each of three others, in each of two layers.
    assert sum(sent) == 6 * 3 * 2 * 2112 * 2


def test_without_a_latent_of_queries_the_hidden_state_is_sent() -> None:
    config = config_of(q_lora_rank=None)
    assert gathered(config) == 40 + 24
    model, (prompt,) = random_model(config), prompts_of([9])
    wanted = model.hidden(prompt, torch.arange(9), CausalLatents([9]))

    def work(trade: SharedTrade, company: Fixed) -> Any:
        staged = StagedModel(model, trade)
        return staged.hidden(prompt, torch.arange(9), CausalLatents([9]))

    for hidden in run_trades(2, work):
        torch.testing.assert_close(hidden, wanted)


def test_more_ranks_than_heads_are_refused_before_anything_is_allocated() -> None:
    config = deepseek_config({**TINY, "model_type": "deepseek_v3"}, "here")
    with pytest.raises(ConfigError, match="8 ranks for 4 heads"):
        group_shape(config, torch.float32, Spread(8, staged=True))
    group_shape(config, torch.float32, Spread(8))
    check_heads(config, 4)


def test_the_memory_of_a_trade_holds_the_latents_of_a_round() -> None:
    config = deepseek_config({**TINY, "model_type": "deepseek_v3"}, "here")
    sizes = trade_sizes(config, torch.float32, Spread(4, local_batch=10, staged=True))
    assert sizes.piece == 10 * (20 + 24) * 4
    assert sizes.total == 2 * 4 * (64 + 1792)
