from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from language_cases import FAMILIES, logits_in_steps, random_hf, save_hf

from silva.models.attention import CausalAttention
from silva.models.kept import Heads
from silva.models.language_loader import load_language_model
from silva.models.llama import inverse_frequencies
from silva.models.llama_config import Rope


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Of every family the stock model and silva's, loaded from what the stock one saves."""
    found = {}
    for family in FAMILIES:
        folder = save_hf(tmp_path_factory.mktemp("m") / "model", family)
        found[family] = (random_hf(family), load_language_model(folder))
    return found


def tokens_of(length: int, seed: int = 1) -> list[int]:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 97, (length,), generator=source).tolist()


def expected(stock: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return stock(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(models: Any, family: str) -> None:
    stock, model = models[family]
    tokens = tokens_of(model.config.context)
    with torch.inference_mode():
        hidden = model.hidden(
            torch.tensor(tokens), torch.arange(len(tokens)), CausalAttention([len(tokens)])
        )
        found = model.logits(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected(stock, tokens), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "llama 3", "qwen2", "qwen3"])
def test_chunked_prefill_and_decode_of_several_sequences(models: Any, family: str) -> None:
    stock, model = models[family]
    sequences = {"a": tokens_of(13, 1), "b": tokens_of(9, 2), "c": tokens_of(4, 3)}
    steps = [{"a": 5}, {"b": 1, "a": 4}, {"a": 1, "b": 7, "c": 3}, {"c": 1, "b": 1, "a": 1}]
    steps += [{"a": 1}, {"a": 1}]
    found = logits_in_steps(model, sequences, steps)
    for name, tokens in sequences.items():
        torch.testing.assert_close(found[name], expected(stock, tokens), atol=2e-5, rtol=1e-5)


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    folder = save_hf(tmp_path / "m", "qwen3")
    tokens = tokens_of(20)
    reduced = load_language_model(folder, dtype=torch.bfloat16)
    assert reduced.dtype == torch.bfloat16
    found = logits_in_steps(reduced, {"a": tokens}, [{"a": 20}])["a"]
    exact = expected(random_hf("qwen3"), tokens)
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 0.05


def test_stories260k_tells_its_story(shared_data: Path) -> None:
    folder = shared_data / "stories260k"
    if not folder.is_dir():
        pytest.skip("needs stories260k in ../shared/data")
    transformers = pytest.importorskip("transformers")
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)("Once upon a time").input_ids
    answer = stock.generate(torch.tensor([tokens]), max_new_tokens=60, do_sample=False)[0].tolist()
    model = load_language_model(folder)
    steps = [{"a": len(tokens)}] + [{"a": 1}] * (len(answer) - len(tokens) - 1)
    found = logits_in_steps(model, {"a": answer}, steps)["a"]
    assert found[len(tokens) - 1 :].argmax(-1).tolist() == answer[len(tokens) :]
    torch.testing.assert_close(found, expected(stock, answer[:-1]), atol=1e-4, rtol=1e-4)


def test_what_one_token_keeps(models: Any) -> None:
    _, model = models["qwen3"]
    assert model.config.kept == Heads(2, 16, 16)
    seen: list[tuple[int, ...]] = []

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append((layer, *k.shape[1:]))
        return CausalAttention([3])(layer, q, k, v)

    model.hidden(torch.tensor([1, 2, 3]), torch.arange(3), attend)
    assert seen == [(n, 2, 16) for n in range(3)]


def test_scaled_frequencies_are_between_plain_and_divided() -> None:
    plain = inverse_frequencies(Rope(), 64)
    scaled = inverse_frequencies(Rope(kind="llama3", factor=8.0), 64)
    assert torch.equal(scaled[:5], plain[:5])
    torch.testing.assert_close(scaled[-5:], plain[-5:] / 8)
    assert bool(((scaled <= plain) & (scaled >= plain / 8 * (1 - 1e-6))).all())
