from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gguf")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

import gguf
import transformers
from gguf_cases import KINDS, write_gguf
from language_cases import LLAMA3, logits_in_steps

from silva.errors import ModelError
from silva.models.convert import convert_gguf
from silva.models.gguf_model import describe
from silva.models.language import LanguageModel
from silva.models.language_loader import load_language_model
from silva.models.llama import inverse_frequencies
from silva.models.llama_config import Rope

TOKENS = [5, 17, 400, 3, 9, 420, 77, 1]


def converted(path: Path, dtype: str = "float32") -> LanguageModel:
    folder = path.with_suffix("")
    folder.mkdir()
    progress: list[tuple[int, int]] = []
    convert_gguf(path, folder, dtype, lambda *step: progress.append(step))
    assert progress[-1][0] == progress[-1][1] and progress == sorted(progress)
    return load_language_model(folder)


def logits(model: LanguageModel) -> torch.Tensor:
    return logits_in_steps(model, {"a": TOKENS}, [{"a": len(TOKENS)}])["a"]


def expected(stock: Any, kind: str = "F32") -> torch.Tensor:
    """Of the stock model with its matrices rounded as the file has them."""
    with torch.no_grad():
        for p in stock.parameters():
            if p.ndim == 2:
                raw = gguf.quants.quantize(p.numpy(), KINDS[kind])
                p.copy_(torch.from_numpy(gguf.quants.dequantize(raw, KINDS[kind]).reshape(p.shape)))
        return stock(torch.tensor([TOKENS])).logits[0]


FAMILIES = ("llama", "llama tied, all heads keys", "llama biases, odd head", "qwen2", "qwen3")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_the_model_that_was_written(tmp_path: Path, family: str) -> None:
    changes: dict[str, Any] = {"head_dim": 16} if "odd" in family else {}
    changes |= {"num_key_value_heads": 4} if "all heads" in family else {}
    stock = write_gguf(tmp_path / "x.gguf", family, **changes)
    torch.testing.assert_close(
        logits(converted(tmp_path / "x.gguf")), expected(stock), atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_tensor(tmp_path: Path, kind: str) -> None:
    stock = write_gguf(tmp_path / "x.gguf", "llama", kind)
    torch.testing.assert_close(
        logits(converted(tmp_path / "x.gguf")), expected(stock, kind), atol=2e-5, rtol=1e-5
    )


def test_transformers_reads_the_file_and_the_directory_alike(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", "llama", "Q8_0")
    found = logits(converted(tmp_path / "x.gguf"))
    load = transformers.AutoModelForCausalLM.from_pretrained
    for place in ({"gguf_file": "x.gguf"}, {"subfolder": "x"}):
        stock = load(tmp_path, dtype=torch.float32, **place)
        with torch.no_grad():
            theirs = stock(torch.tensor([TOKENS])).logits[0]
        torch.testing.assert_close(found, theirs, atol=2e-5, rtol=1e-5)


def test_the_directory_is_mapped_in_one_piece_per_group(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", "qwen2")
    model: Any = converted(tmp_path / "x.gguf")
    assert all(len(pieces) == 1 for pieces in model.weights.linears.values())
    assert model.config.eos_ids == (2,) and model.config.bos_id == 1


def test_bfloat16(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf")
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(tmp_path / "x.gguf", folder, "bfloat16", lambda *_: None)
    model = load_language_model(folder, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16


def test_the_scaling_of_llama_3_comes_as_divisors(tmp_path: Path) -> None:
    scaling = {**LLAMA3, "original_max_position_embeddings": 8192}
    plain = inverse_frequencies(Rope(500.0), 16)
    scaled = inverse_frequencies(Rope(500.0, "llama3", 8.0), 16)
    divisors = (plain / scaled).numpy()
    changes = {"rope_parameters": scaling, "max_position_embeddings": 16384}
    stock = write_gguf(tmp_path / "x.gguf", "llama 3", divisors=divisors, **changes)
    assert float(divisors.max()) == 1.0  # at this base no wavelength is long
    model = converted(tmp_path / "x.gguf")
    torch.testing.assert_close(logits(model), expected(stock), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_divisors_of_long_wavelengths(tmp_path: Path, factor: float) -> None:
    rope = Rope(500_000.0, "llama3", factor)
    divisors = (inverse_frequencies(Rope(500_000.0), 16) / inverse_frequencies(rope, 16)).numpy()
    base = {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}
    write_gguf(tmp_path / "x.gguf", divisors=divisors, **base)
    found = describe(tmp_path / "x.gguf").config.rope
    assert (found.kind, found.original_context) == ("llama3", 8192)
    assert found.factor == pytest.approx(factor, rel=1e-6)


def test_divisors_that_follow_no_rule_are_refused(tmp_path: Path) -> None:
    for n, divisors in enumerate([np.linspace(1, 9, 8), np.zeros(8), np.ones(7), np.full(8, 1e9)]):
        write_gguf(tmp_path / f"{n}.gguf", divisors=divisors)
        with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
            describe(tmp_path / f"{n}.gguf")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("general.architecture", "mamba", "architecture 'mamba'"),
        ("general.architecture", 5, "architecture 5"),
        ("llama.embedding_length", 32, "not"),
        ("llama.embedding_length", "wide", "hidden_size"),
        ("llama.block_count", 3, "missing tensors: blk.2"),
        ("llama.block_count", 1 << 31, "num_hidden_layers"),
        ("llama.attention.head_count", np.array([4, 4]), "num_attention_heads"),
        ("llama.attention.head_count", 0, "num_attention_heads"),
        ("llama.attention.sliding_window", 64, "sliding window"),
        ("llama.expert_count", 8, "experts"),
        ("llama.rope.dimension_count", 8, "rotates 8"),
        ("llama.rope.scaling.type", "yarn", "rope_parameters"),
        ("llama.rope.freq_base", float("nan"), "rope_theta"),
        ("llama.attention.key_length", np.array([16, 16]), "head_dim"),
        ("llama.attention.sliding_window", np.array([64, 0]), "sliding_window is a list"),
        ("llama.expert_count", np.array([]), "expert_count is a list"),
        ("llama.rope.dimension_count", np.array([16, 16]), "dimension_count is a list"),
        ("llama.rope.scaling.type", np.array([1, 2]), "scaling.type is a list"),
        ("tokenizer.ggml.eos_token_id", [2], ""),
    ],
)
def test_settings_that_silva_does_not_know_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, named: str
) -> None:
    from silva.models import gguf_model

    path = tmp_path / "x.gguf"
    write_gguf(path)
    file = gguf_model.GGUFFile(path)
    file.metadata[key] = value
    monkeypatch.setattr(gguf_model, "GGUFFile", lambda _: file)
    if not named:
        assert describe(path).config.eos_ids == ()
        return
    with pytest.raises(ModelError, match=named):
        describe(path)
