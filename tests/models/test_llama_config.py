from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.errors import ModelError, SilvaError
from silva.models.llama_config import LlamaConfig, Rope, llama_config, read_config

WHERE = Path("config.json")
PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def config_of(**changes: Any) -> LlamaConfig:
    return llama_config({k: v for k, v in {**PLAIN, **changes}.items() if v is not ...}, WHERE)


def test_fields_of_transformers_4_and_5_say_the_same() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    old = {**scaling, "rope_type": "llama3", "original_max_position_embeddings": 64}
    four = config_of(rope_theta=5e5, rope_scaling=old)
    five = config_of(rope_parameters={**old, "rope_theta": 5e5})
    assert four == five
    assert four.rope == Rope(5e5, "llama3", 8.0, 1.0, 4.0, 64)
    assert config_of(rope_scaling={"type": "linear", "factor": 2}).rope == Rope(1e4, "linear", 2.0)
    assert config_of(rope_scaling=None).rope == Rope()


def test_what_each_family_has() -> None:
    assert not config_of(attention_bias=True, model_type="mistral").qkv_bias
    qwen2 = config_of(model_type="qwen2")
    assert qwen2.qkv_bias and not qwen2.output_bias
    qwen3 = config_of(model_type="qwen3", head_dim=...)
    assert qwen3.qk_norm and qwen3.head_size == 128
    assert config_of(num_key_value_heads=...).kv_heads == 4


def test_a_sliding_window_bounds_the_context() -> None:
    mistral = {"model_type": "mistral", "max_position_embeddings": 32768}
    assert config_of(**mistral).context == 4096
    assert config_of(**mistral, sliding_window=None).context == 32768
    assert config_of(**mistral, sliding_window=100).context == 100
    assert config_of(model_type="qwen2", sliding_window=8).context == 128
    assert config_of(model_type="qwen2", sliding_window=8, use_sliding_window=True).context == 8


def test_end_tokens_of_the_generation_config_count(tmp_path: Path) -> None:
    import json

    (tmp_path / "config.json").write_text(json.dumps({**PLAIN, "eos_token_id": 2}))
    assert read_config(tmp_path).eos_ids == (2,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2, 7]}))
    assert read_config(tmp_path).eos_ids == (7, 2)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(ModelError, match=r"generation_config.json: eos_token_id"):
        read_config(tmp_path)


def test_end_tokens_beyond_the_vocabulary_never_come_up() -> None:
    assert config_of(eos_token_id=[3, 128_001]).eos_ids == (3,)


def test_the_digest_is_that_of_the_function() -> None:
    plain = config_of()
    assert plain.digest() == replace(plain, eos_ids=(9,)).digest()
    assert plain.digest() != replace(plain, rope=Rope(theta=2e4)).digest()
    assert plain.digest() != replace(plain, norm_eps=1e-5).digest()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "bert"}, "model_type"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"vocab_size": ...}, "vocab_size"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 7}, "head_dim"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"eos_token_id": [[1]]}, "eos_token_id"),
        ({"eos_token_id": list(range(1000))}, "eos_token_id"),
        ({"layer_types": ["chunked_attention"]}, "layer_types"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: {named}"):
        config_of(**changes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
SCALING = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["default", "linear", "llama3", "dynamic", "yarn"])},
    optional={
        name: st.integers() | st.floats()
        for name in (
            *("factor", "rope_theta", "low_freq_factor", "high_freq_factor"),
            "original_max_position_embeddings",
        )
    },
)


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from([*PLAIN, "head_dim", "rope_scaling", "rope_parameters", "eos_token_id"]),
        JSON | SCALING | st.integers(1, 64),
        max_size=5,
    ),
    st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]),
)
def test_any_config_is_read_or_refused(changes: dict[str, Any], family: str) -> None:
    try:
        config = llama_config({**PLAIN, **changes, "model_type": family}, WHERE)
    except SilvaError as error:
        assert "config.json" in str(error)
    else:
        assert config.heads % config.kv_heads == 0 and config.head_size % 2 == 0
        assert config.context >= 1 and all(0 <= t < config.vocab_size for t in config.eos_ids)
