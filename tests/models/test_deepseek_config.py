from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from silva.errors import ModelError
from silva.models.deepseek_config import deepseek_config, read_config
from silva.models.kept import Latent

V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
    "eos_token_id": 1,
    "bos_token_id": 0,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
}
"""The published configuration of DeepSeek-V3 and R1."""

V2_LITE = {
    **{k: v for k, v in V3.items() if k not in ("quantization_config", "num_nextn_predict_layers")},
    "model_type": "deepseek_v2",
    "q_lora_rank": None,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
}


def test_deepseek_v3() -> None:
    c = deepseek_config(V3, "x")
    assert (c.layers, c.dense_layers, c.experts, c.gate.top_k) == (61, 3, 256, 8)
    assert (c.gate.groups, c.gate.top_groups, c.gate.scaling) == (8, 4, 2.5)
    assert (c.kept, c.block, c.drafts) == (Latent(576), (128, 128), 1)
    assert c.rope.factor == 40
    assert c.rope.amplitude == 1.0
    assert c.softmax_scale == pytest.approx(192**-0.5 * 1.3688879**2)
    assert c.eos_ids == (1,)
    assert [n for n in range(62) if not c.has_experts(n)] == [0, 1, 2]


def test_deepseek_v2_lite() -> None:
    c = deepseek_config(V2_LITE, "x")
    assert c.q_rank is None
    assert (c.gate.scoring, c.gate.groups, c.gate.normalised) == ("softmax", 1, False)
    assert (c.shared_experts, c.drafts, c.block) == (2, 0, None)


def test_the_digest_is_that_of_the_function() -> None:
    c = deepseek_config(V3, "x")
    assert c.digest() == deepseek_config({**V3, "eos_token_id": [1, 5]}, "x").digest()
    assert c.digest() != deepseek_config({**V3, "topk_group": 3}, "x").digest()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model_type": "mixtral"}, "model_type"),
        ({"kv_lora_rank": None}, "kv_lora_rank: is missing"),
        ({"hidden_size": "7168"}, "hidden_size"),
        ({"qk_rope_head_dim": 63}, "odd"),
        ({"num_key_value_heads": 16}, "num_key_value_heads"),
        ({"n_group": 7}, "256 experts do not divide among 7 groups"),
        ({"n_group": 256}, "has one"),
        ({"topk_group": 9}, "topk_group"),
        ({"num_experts_per_tok": 129}, "its 4 groups have 128"),
        ({"num_experts_per_tok": 300}, "num_experts_per_tok"),
        ({"n_group": None}, "n_group: is missing"),
        ({"n_routed_experts": 1 << 16}, "65536 in each of 61 layers"),
        ({"first_k_dense_replace": 62}, "first_k_dense_replace"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"scoring_func": "softmax"}, "scoring_func"),
        ({"topk_method": "greedy"}, "topk_method"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type"),
        ({"rope_scaling": {"type": "yarn", "factor": 40}}, "original_max_position"),
        ({"rope_scaling": 7}, "no table"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method"),
        ({"quantization_config": {"quant_method": "fp8"}}, "weight_block_size"),
        ({"eos_token_id": "1"}, "eos_token_id"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"norm_topk_prob": 1}, "norm_topk_prob"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError, match=line) as error:
        deepseek_config({**V3, **changes}, "a/config.json")
    assert "a/config.json" in str(error.value)


def test_normalised_softmax_is_refused() -> None:
    with pytest.raises(ModelError, match="norm_topk_prob"):
        deepseek_config({**V2_LITE, "norm_topk_prob": True}, "x")


def test_end_tokens_of_the_generation_config_count(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(V3))
    assert read_config(tmp_path).eos_ids == (1,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert read_config(tmp_path).eos_ids == (3, 4)
