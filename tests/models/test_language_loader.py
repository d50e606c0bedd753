from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from language_cases import logits_in_steps, random_hf, save_hf

from silva.errors import ModelError
from silva.models import digests
from silva.models.language_loader import load_language_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_hf(tmp_path / "tiny", "qwen3")


def edit(folder: Path, change: Any) -> None:
    """Rewrite the weights: `change` gets the tensors by name."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_weights_are_views_of_the_file(folder: Path) -> None:
    model: Any = load_language_model(folder)
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(folder / "model.safetensors")):
            spans.append([int(n, 16) for n in line.split()[0].split("-")])
    tensors = [model.weights.embedding, model.weights.norm]
    tensors += [w for pieces in model.weights.linears.values() for w, _ in pieces]
    for tensor in tensors:
        assert any(low <= tensor.data_ptr() < high for low, high in spans)


def test_shards_are_read_and_the_digest_does_not_see_them(folder: Path, tmp_path: Path) -> None:
    whole = load_language_model(folder)
    random_hf("qwen3").save_pretrained(tmp_path / "cut", max_shard_size="40KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 2
    cut = load_language_model(tmp_path / "cut")
    assert cut.digest == whole.digest
    tokens = {"a": [1, 2, 3, 4]}
    found, expected = (logits_in_steps(m, tokens, [{"a": 4}])["a"] for m in (cut, whole))
    torch.testing.assert_close(found, expected)


def test_the_digest_is_that_of_the_content(folder: Path) -> None:
    first = load_language_model(folder)
    assert (first.name, len(first.digest)) == ("tiny", 64)
    edit(folder, lambda t: t["model.norm.weight"].mul_(1.001))
    second = load_language_model(folder, name="other")
    assert second.name == "other"
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = 1e-4
    (folder / "config.json").write_text(json.dumps(config))
    assert len({first.digest, second.digest, load_language_model(folder).digest}) == 3


def test_a_digest_is_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = load_language_model(folder).digest
    monkeypatch.setattr(digests, "tensor_digest", None)
    assert load_language_model(folder).digest == digest


def test_a_file_replaced_while_it_is_read_is_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digests.weights_digest

    def replacing(tensors: Any) -> str:
        edit(folder, lambda t: t["model.norm.weight"].mul_(1.001))
        return whole(tensors)

    with monkeypatch.context() as patch:
        patch.setattr(digests, "weights_digest", replacing)
        first = load_language_model(folder).digest
    assert load_language_model(folder).digest != first


def test_no_cache_folder_is_no_obstacle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = load_language_model(folder).digest
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SILVA_CACHE", str(tmp_path / "file"))
    assert load_language_model(folder).digest == digest


def test_a_damaged_record_is_computed_again(folder: Path) -> None:
    digest = load_language_model(folder).digest
    place = digests._place([folder / "model.safetensors"])
    for text in ("", "[]", '{"files": 3}', json.dumps({"files": [], "digest": "0" * 64})):
        place.write_text(text)
        assert load_language_model(folder).digest == digest


def test_not_a_number_is_refused(folder: Path) -> None:
    edit(folder, lambda t: t["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds NaN"):
        load_language_model(folder)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(folder: Path) -> None:
    old = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(folder, lambda t: t.update({old: torch.ones(8)}))
    load_language_model(folder)
    edit(folder, lambda t: t.update({"extra": torch.zeros(3)}))
    with pytest.raises(ModelError, match="1 unexpected tensors: extra"):
        load_language_model(folder)
    edit(folder, lambda t: t.pop("extra"))
    edit(folder, lambda t: t.update({"model.norm.weight": torch.zeros(3)}))
    with pytest.raises(ModelError, match=r"model\.norm\.weight is \[3\], not \[48\]"):
        load_language_model(folder)
    edit(folder, lambda t: t.pop("model.norm.weight"))
    with pytest.raises(ModelError, match="1 missing tensors: model"):
        load_language_model(folder)


def test_huge_shapes_in_the_config_are_refused_before_anything_is_allocated(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(vocab_size=1 << 22, hidden_size=1 << 16)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="not"):
        load_language_model(folder)


def test_a_folder_without_config_and_pickled_weights(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="no config"):
        load_language_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        load_language_model(folder)
