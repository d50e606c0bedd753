from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from deepseek_cases import logits_in_steps, save_hf, tokens_of
from safetensors.torch import load_file, save_file

from silva.errors import ModelError
from silva.models.deepseek_config import read_config
from silva.models.deepseek_loader import load_deepseek
from silva.models.deepseek_source import DeepseekSource
from silva.models.fp8 import FP8, dequantise, scale_shape
from silva.models.mapped import Placed, write_mapped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One layer with experts, in one file."""
    return save_hf(tmp_path / "m", num_hidden_layers=2)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """What the file holds, in memory of its own: the file is about to be written."""
    tensors = load_file(folder / "model.safetensors")
    return {name: tensor.clone() for name, tensor in tensors.items()}


def change(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    tensors = stored(folder)
    for name, value in changes.items():
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def logits(folder: Path) -> torch.Tensor:
    return logits_in_steps(load_deepseek(folder), {"a": tokens_of(9)}, [{"a": 8}, {"a": 1}])["a"]


def test_a_rank_keeps_its_experts_only(folder: Path) -> None:
    kept: dict[int, Any] = {}

    def remember(experts: Any) -> Any:
        kept.update(experts)
        return lambda *_: torch.zeros(0)

    model = load_deepseek(folder, keeps=lambda layer, e: e in (3, 7), exchange=remember)
    assert list(kept) == [1]
    assert kept[1].ids == (3, 7)
    assert kept[1].gate_up.shape == (2, 48, 40)
    assert kept[1].gate_up.untyped_storage().nbytes() == 2 * 48 * 40 * 4
    tensors = stored(folder)
    at = "model.layers.1.mlp.experts.7."
    assert torch.equal(kept[1].gate_up[1, 24:], tensors[at + "up_proj.weight"])
    assert torch.equal(kept[1].down[1], tensors[at + "down_proj.weight"])
    # All ranks serve the same model.
    assert model.digest == load_deepseek(folder).digest


def test_a_rank_may_keep_none(folder: Path) -> None:
    source = DeepseekSource(folder, read_config(folder))
    assert source.experts(1, lambda *_: False, torch.float32).gate_up.shape == (0, 48, 40)


def test_shards_give_the_same_model(folder: Path) -> None:
    whole = logits(folder)
    tensors = stored(folder)
    (folder / "model.safetensors").unlink()
    names, table = sorted(tensors), {}
    for n in range(3):
        shard = f"model-{n}.safetensors"
        save_file({name: tensors[name] for name in names[n::3]}, folder / shard)
        table |= dict.fromkeys(names[n::3], shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    torch.testing.assert_close(logits(folder), whole)
    listed = {name: shard for name, shard in table.items() if shard != "model-1.safetensors"}
    index.write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(ModelError, match="missing tensors"):
        load_deepseek(folder)
    index.write_text(json.dumps({"weight_map": table}))
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match="shard model-1"):
        load_deepseek(folder)


def test_experts_one_after_the_other_stay_in_the_file(folder: Path) -> None:
    whole = logits(folder)
    tensors = stored(folder)
    first = [n for n in tensors if ".experts." not in n]
    for kinds in (("gate", "up"), ("down",)):
        first += [
            f"model.layers.1.mlp.experts.{e}.{k}_proj.weight" for e in range(16) for k in kinds
        ]
    (folder / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("wb") as file:
        listed = [Placed(name, tuple(tensors[name].shape), torch.float32) for name in first]
        write_mapped(file, listed, tensors.__getitem__)
    source = DeepseekSource(folder, read_config(folder))
    kept = source.experts(1, lambda layer, e: 4 <= e < 8, torch.float32)
    size = (folder / "model.safetensors").stat().st_size
    assert kept.gate_up.untyped_storage().nbytes() == size
    torch.testing.assert_close(logits(folder), whole)


def quantise(weight: torch.Tensor, block: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """e4m3 values and scales, block by block."""
    scale = torch.empty(scale_shape(tuple(weight.shape), block))
    out = torch.empty(weight.shape, dtype=FP8)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            here = (
                slice(i * block[0], (i + 1) * block[0]),
                slice(j * block[1], (j + 1) * block[1]),
            )
            scale[i, j] = weight[here].abs().max() / 448
            out[here] = (weight[here] / scale[i, j]).to(FP8)
    return out, scale


def test_fp8_is_the_product_of_values_and_scales() -> None:
    weight = torch.randn(37, 50, generator=torch.Generator().manual_seed(0))
    values, scale = quantise(weight, (16, 8))
    found = dequantise(values, scale, (16, 8), torch.float32)
    for i, j in ((0, 0), (15, 7), (16, 8), (36, 49)):
        assert found[i, j] == values[i, j].float() * scale[i // 16, j // 8]
    # Three bits of mantissa.
    assert ((found - weight).abs() <= weight.abs() / 16 + weight.abs().max() / 448).all()


def test_an_fp8_directory_equals_its_dequantised_twin(tmp_path: Path, folder: Path) -> None:
    block = (16, 16)
    quantised: dict[str, torch.Tensor | None] = {}
    plain: dict[str, torch.Tensor | None] = {}
    for name, weight in stored(folder).items():
        if name.endswith("_proj.weight") or "_proj_with_mqa" in name:
            values, scale = quantise(weight, block)
            quantised |= {name: values, name + "_scale_inv": scale}
            plain[name] = dequantise(values, scale, block, torch.float32)
    change(folder, plain)
    expected = logits(folder)
    change(folder, quantised)
    with pytest.raises(ModelError, match="says nothing of its blocks"):
        load_deepseek(folder)
    configure(folder, quantization_config={"quant_method": "fp8", "weight_block_size": list(block)})
    torch.testing.assert_close(logits(folder), expected)
    change(folder, {"model.layers.1.self_attn.o_proj.weight_scale_inv": None})
    with pytest.raises(ModelError, match=r"missing tensors.*o_proj\.weight_scale_inv"):
        load_deepseek(folder)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model.layers.1.mlp.experts.5.up_proj.weight": None}, "1 missing.*experts.5"),
        ({"model.layers.1.mlp.experts.16.up_proj.weight": torch.ones(24, 40)}, "unexpected"),
        ({"model.layers.0.self_attn.kv_b_proj.weight": torch.ones(88, 17)}, r"is \[88, 17\]"),
        ({"model.layers.2.enorm.weight": torch.ones(40)}, "missing tensors: model.layers.2"),
        ({"model.norm.weight": torch.full((40,), torch.nan)}, "NaN"),
        ({"model.norm.weight_scale_inv": torch.ones(1)}, "unexpected"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    folder: Path, changes: dict[str, torch.Tensor | None], line: str
) -> None:
    change(folder, changes)
    with pytest.raises(ModelError, match=line):
        load_deepseek(folder)


def test_tensors_of_no_use_are_let_be(folder: Path) -> None:
    expected = logits(folder)
    change(
        folder,
        {
            "model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4),
            "model.layers.3.enorm.weight": torch.ones(40),
        },
    )
    torch.testing.assert_close(logits(folder), expected)
