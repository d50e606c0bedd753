from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from deepseek_cases import (
    SHAPES,
    PlainLatents,
    logits_in_steps,
    random_hf,
    randomise,
    save_hf,
    tokens_of,
)
from safetensors.torch import load_file, save_file

from silva.models.deepseek_loader import load_deepseek
from silva.models.kept import Latent
from silva.models.latent import CausalLatents


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Of every shape the stock model and silva's, loaded from what the stock one saves."""
    found = {}
    for shape in SHAPES:
        folder = save_hf(tmp_path_factory.mktemp("m") / "model", shape)
        found[shape] = (random_hf(shape), load_deepseek(folder))
    return found


def expected(stock: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return stock(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["plain", "absorbed"])
def test_logits_equal_transformers(models: Any, shape: str, form: Any) -> None:
    stock, model = models[shape]
    tokens = tokens_of(model.config.context)
    with torch.inference_mode():
        hidden = model.hidden(
            torch.tensor(tokens), torch.arange(len(tokens)), CausalLatents([len(tokens)], form)
        )
        found = model.logits(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected(stock, tokens), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", ["v3", "v2", "moonlight"])
def test_chunked_prefill_and_decode_of_several_sequences(models: Any, shape: str) -> None:
    stock, model = models[shape]
    sequences = {"a": tokens_of(13, 1), "b": tokens_of(9, 2), "c": tokens_of(4, 3)}
    steps = [{"a": 5}, {"b": 1, "a": 4}, {"a": 1, "b": 7, "c": 3}, {"c": 1, "b": 1, "a": 1}]
    steps += [{"a": 1}, {"a": 1}]
    found = logits_in_steps(model, sequences, steps)
    for name, tokens in sequences.items():
        torch.testing.assert_close(found[name], expected(stock, tokens), atol=1e-4, rtol=1e-5)


def test_a_token_keeps_one_latent_a_layer(models: Any) -> None:
    _, model = models["v3"]
    memory = PlainLatents()
    memory.step([("a", 5)])
    model.hidden(torch.tensor(tokens_of(5)), torch.arange(5), memory)
    assert model.config.kept == Latent(24)
    assert {kept.shape for kept in memory.kept.values()} == {(5, 24)}
    assert len(memory.kept) == 3


def test_a_draft_equals_the_stock_module(tmp_path: Path) -> None:
    modeling = pytest.importorskip("transformers.modeling_layers")
    stock = random_hf("v3")
    module = modeling.MtpModel(stock, 1).eval()
    randomise(module)
    stock.save_pretrained(tmp_path / "m")
    add_draft(tmp_path / "m", module, stock)
    model = load_deepseek(tmp_path / "m")
    assert model.config.drafts == 1
    tokens = torch.tensor(tokens_of(12))
    with torch.inference_mode():
        hidden = model.hidden(tokens[:-1], torch.arange(11), CausalLatents([11]))
        memory = PlainLatents()
        memory.step([("a", 11)])
        found = model.logits(model.draft(hidden, tokens[1:], torch.arange(11), memory))
        assert list(memory.kept) == [("a", 3)]
        known = module.forward_layer(
            0, hidden[None], torch.arange(1, 12)[None], None, input_ids=tokens[None, 1:]
        )
        theirs = stock.lm_head(known)[0]
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-5)


def add_draft(folder: Path, module: Any, stock: Any) -> None:
    """Write a draft module as DeepSeek does: the layer after the last, with copies."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    at = "model.layers.3."
    for name, value in module.layers[0].state_dict().items():
        named = name.removeprefix("mtp_block.")
        if named == "post_norm.weight":
            named = "shared_head.norm.weight"
        if named == "mlp.experts.gate_up_proj":
            for n, expert in enumerate(value):
                gate, up = expert.chunk(2)
                tensors[f"{at}mlp.experts.{n}.gate_proj.weight"] = gate.contiguous()
                tensors[f"{at}mlp.experts.{n}.up_proj.weight"] = up.contiguous()
        elif named == "mlp.experts.down_proj":
            for n, expert in enumerate(value):
                tensors[f"{at}mlp.experts.{n}.down_proj.weight"] = expert.contiguous()
        else:
            tensors[at + named] = value.contiguous()
    tensors[at + "embed_tokens.weight"] = stock.model.embed_tokens.weight.detach().clone()
    tensors[at + "shared_head.head.weight"] = stock.lm_head.weight.detach().clone()
    path.unlink()
    save_file(tensors, path)


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    folder = save_hf(tmp_path / "m", "moonlight")
    tokens = tokens_of(20)
    reduced = load_deepseek(folder, dtype=torch.bfloat16)
    assert reduced.dtype == torch.bfloat16
    found = logits_in_steps(reduced, {"a": tokens}, [{"a": 19}, {"a": 1}])["a"]
    exact = expected(random_hf("moonlight"), tokens)
    assert found.dtype == torch.float32
    # Where a token's last expert changes the logits jump: most positions count.
    error = (found - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert float(error.median()) < 0.05
