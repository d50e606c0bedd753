from __future__ import annotations

import pytest

from silva.supernode.model import load_model, read_model
from silva.supernode.sourced import spec_names

M = 1e6


@pytest.mark.parametrize("name", spec_names("models"))
def test_every_figure_has_a_source(name: str) -> None:
    assert all(read_model(name).sources.values())


def test_sizes_of_deepseek_r1() -> None:
    model = load_model("deepseek-r1")
    parts = {name: round(count / M, 2) for name, count in model.attention_parts.items()}
    assert parts == {"q_a": 11.01, "q_b": 37.75, "kv_a": 4.13, "kv_b": 16.78, "o": 117.44}
    assert model.layers * model.attention_weights / 1e9 == pytest.approx(11.41, abs=0.005)
    assert model.expert_weights / M == pytest.approx(44.04, abs=0.005)
    assert model.expert_layers * model.expert_weights / 1e9 == pytest.approx(2.55, abs=0.005)
    assert model.dense_weights / M == pytest.approx(396.4, abs=0.05)
    assert model.gate_weights / M == pytest.approx(1.84, abs=0.005)
    assert model.embedding_weights / M == pytest.approx(926.7, abs=0.05)
    assert model.weights / 1e9 == pytest.approx(671.03, abs=0.005)


def test_the_cache_of_deepseek_r1() -> None:
    model = load_model("deepseek-r1")
    assert model.cache_values == 576
    assert model.cache_bytes() * model.layers == 70_272
    assert model.cache_bytes(value_bytes=1.0) * model.layers == 39_040


def test_a_dense_model() -> None:
    model = load_model("llama-3-70b")
    assert model.is_dense
    assert model.weights / 1e9 == pytest.approx(70.55, abs=0.01)
    assert model.cache_bytes() * model.layers == 327_680
