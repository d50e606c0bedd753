from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from forest_cases import CLASSES, same_tier, tier
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from silva.adapters.module_map import from_transformers, to_transformers
from silva.adapters.peft import CONFIG, WEIGHTS, export_peft, export_stack, fit_tier, import_peft
from silva.adapters.peft_config import parse_settings
from silva.adapters.tiers import AdapterPath, Head, LoraPair, Tier, TierName
from silva.errors import ForestError

PATH = AdapterPath((tier("root", 1, 4), tier("cluster", 2, 2, 8 / 3), tier("leaf", 3, 3, 0.7)))
HIDDEN, LAYERS = 12, 2


def export(adapter: Tier | AdapterPath, folder: Path, **more: Any) -> Path:
    export_peft(adapter, folder, base_id="tiny", class_names=CLASSES, **more)
    return folder


def rewrite(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **settings}))


def retensor(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


@pytest.mark.parametrize("layout", ["hf5", "hf4"])
def test_a_tier_comes_back_bit_by_bit(tmp_path: Path, layout: Any) -> None:
    leaf = tier("leaf", 3)
    folder = export(leaf, tmp_path / "peft", layout=layout)
    assert same_tier(import_peft(folder, class_names=CLASSES, modules=leaf.pairs), leaf)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_a_path_comes_back_as_one_tier_of_the_summed_rank(tmp_path: Path) -> None:
    found = import_peft(export(PATH, tmp_path / "peft"))
    assert same_tier(found, PATH.flattened())
    assert {pair.rank for pair in found.pairs.values()} == {9}
    for module in PATH.modules():
        assert torch.allclose(AdapterPath((found,)).update(module), PATH.update(module), atol=1e-5)
    assert torch.equal(found.head.bias, PATH.head.bias)


def test_tiers_of_one_scaling_are_joined_without_rounding() -> None:
    path = AdapterPath((tier("root", 1, scaling=1 / 3), tier("leaf", 2, scaling=1 / 3)))
    module = path.modules()[0]
    flat = path.flattened()
    assert flat.scaling == 1 / 3
    assert torch.equal(flat.pairs[module].B[:, 2:], path.tiers[1].pairs[module].B)


def test_ranks_that_differ_by_module_come_back(tmp_path: Path) -> None:
    leaf = tier("leaf", 3)
    few = Tier("leaf", dict(list(leaf.pairs.items())[:1]), leaf.head, 2.0)
    path = AdapterPath((tier("root", 1, 4), few))
    folder = export(path, tmp_path / "peft")
    assert len(json.loads((folder / CONFIG).read_text())["rank_pattern"]) == 1
    assert same_tier(import_peft(folder), path.flattened())


def test_a_file_without_head_needs_one(tmp_path: Path) -> None:
    leaf = tier("leaf", 3)
    folder = export(leaf, tmp_path / "peft", head=False)
    with pytest.raises(ForestError, match="no classifier"):
        import_peft(folder)
    assert same_tier(import_peft(folder, head=leaf.head), leaf)


def test_export_leaves_nothing_behind_when_refused(tmp_path: Path) -> None:
    export(tier("leaf", 3), tmp_path / "peft")
    before = (tmp_path / "peft" / WEIGHTS).read_bytes()
    with pytest.raises(ForestError, match="exists"):
        export(tier("leaf", 4), tmp_path / "peft")
    odd = tier("leaf", 4)
    with pytest.raises(ForestError, match="no counterpart"):
        export(Tier("leaf", {"decoder.x": odd.pairs["layers.0.attention.q_proj"]}, odd.head, 1.0),
               tmp_path / "other")  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["peft"]
    assert (tmp_path / "peft" / WEIGHTS).read_bytes() == before


def test_rslora_and_patterns_are_read_as_peft_reads_them(tmp_path: Path) -> None:
    folder = export(tier("leaf", 3, rank=4), tmp_path / "peft")
    rewrite(folder, use_rslora=True, lora_alpha=3, alpha_pattern={"layers.1.attention.v_proj": 6})
    found = import_peft(folder)
    original = tier("leaf", 3, rank=4)
    for module, pair in found.pairs.items():
        alpha = 6 if module == "layers.1.attention.v_proj" else 3
        wanted = alpha / 4**0.5 * original.pairs[module].product()
        assert torch.allclose(found.scaling * pair.product(), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "LOHA"}, {"peft_type": None}, {"bias": "all"}, {"use_dora": True},
        {"fan_in_fan_out": True}, {"lora_bias": True}, {"layer_replication": [[0, 2]]},
        {"target_parameters": ["x"]}, {"a_setting_of_next_year": 1}, {"r": 3}, {"r": "2"},
        {"r": True}, {"lora_alpha": "x"}, {"use_rslora": 1}, {"rank_pattern": {".*": 3}},
        {"rank_pattern": {"q_proj": 3}}, {"alpha_pattern": [1]}, {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "v_proj", "k_proj"]}, {"target_modules": None},
        {"modules_to_save": ["classifier", "vit.embeddings"]}, {"modules_to_save": None},
        {"init_lora_weights": "pissa_niter_4"}, {"init_lora_weights": "olora"},
    ],
)  # fmt: skip
def test_settings_that_are_not_plain_lora_are_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = export(tier("leaf", 3), tmp_path / "peft")
    rewrite(folder, **settings)
    with pytest.raises(ForestError) as error:
        import_peft(folder)
    assert "\n" not in str(error.value)


def without(part: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {k: v for k, v in tensors.items() if part not in k}


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {k.replace(old, new): v for k, v in tensors.items()}


@pytest.mark.parametrize(
    "change",
    [
        without("layers.0.attention.q_proj.lora_A"), without("classifier.bias"),
        without("classifier"), without("lora_"), without("layers.1"),
        renamed("vit.layers", "bert.layers"), renamed("base_model.model.", ""),
        renamed("lora_A", "lora_embedding_A"), renamed("classifier", "score"),
        lambda t: {**t, "base_model.model.extra": torch.ones(1)},
        lambda t: {k: v * float("nan") for k, v in t.items()},
        lambda t: {k: v[:1].clone() if "lora_A" in k else v for k, v in t.items()},
    ],
)  # fmt: skip
def test_tensors_that_do_not_match_the_settings_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    folder = export(tier("leaf", 3), tmp_path / "peft")
    retensor(folder, change)
    with pytest.raises(ForestError):
        import_peft(folder)


def test_other_classes_or_modules_are_refused(tmp_path: Path) -> None:
    leaf = tier("leaf", 3)
    folder = export(leaf, tmp_path / "peft")
    with pytest.raises(ForestError, match="other classes"):
        import_peft(folder, class_names=CLASSES[::-1])
    with pytest.raises(ForestError, match="other modules"):
        import_peft(folder, modules=[*leaf.pairs, "layers.2.attention.q_proj"])


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    folder = export(tier("leaf", 3), tmp_path / "peft")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ForestError, match="pickled"):
        import_peft(folder)


@given(st.dictionaries(st.sampled_from(
    ["peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias",
     "target_modules", "modules_to_save", "init_lora_weights", "x"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.lists(st.text(max_size=3), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)))  # fmt: skip
def test_any_settings_are_read_or_a_forest_error(plain: dict[str, Any]) -> None:
    with suppress(ForestError):
        parse_settings(json.dumps({"peft_type": "LORA", **plain}).encode(), "here")


def test_fit_tier_pads_without_changing_updates() -> None:
    small = tier("leaf", 3, rank=1, scaling=1.5)
    fitted = fit_tier(small, 4, 2.0)
    assert all(pair.rank == 4 for pair in fitted.pairs.values()) and fitted.scaling == 2.0
    for module in small.pairs:
        wanted, found = AdapterPath((small,)).update(module), AdapterPath((fitted,)).update(module)
        assert torch.allclose(wanted, found, atol=1e-6)
    with pytest.raises(ForestError, match="rank 4"):
        fit_tier(fitted, 2, 2.0)


def test_module_names_of_both_layouts() -> None:
    for last in ("attention.q_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2"):
        for layout in ("hf5", "hf4"):
            there = to_transformers(f"layers.11.{last}", layout)  # type: ignore[arg-type]
            assert from_transformers(there, "here") == f"layers.11.{last}"
    assert to_transformers("layers.0.attention.q_proj", "hf4") == (
        "vit.encoder.layer.0.attention.attention.query"
    )


# Against stock transformers and stock PEFT.


def vit_tier(name: TierName, seed: int, rank: int, scaling: float) -> Tier:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * 0.3

    shapes = {"attention.q_proj": (HIDDEN, HIDDEN), "mlp.fc1": (20, HIDDEN)}
    pairs = {
        f"layers.{n}.{m}": LoraPair(B=draw(out, rank), A=draw(rank, into))
        for n in range(LAYERS)
        for m, (out, into) in shapes.items()
    }
    return Tier(name, pairs, Head(draw(3, HIDDEN), draw(3)), scaling)


VIT_PATH = AdapterPath(
    (vit_tier("root", 1, 4, 2.0), vit_tier("cluster", 2, 2, 4.0), vit_tier("leaf", 3, 3, 2.0))
)


def stock_model() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=3, intermediate_size=20, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def silva_copy(stock: Any) -> Any:
    """silva's ViT with the weights of transformers' one."""
    from silva.models.vit import ViT, ViTConfig

    model = ViT(
        ViTConfig(
            image_size=8, patch_size=4, hidden_size=HIDDEN, num_hidden_layers=LAYERS,
            num_attention_heads=3, intermediate_size=20,
        )
    ).eval()  # fmt: skip
    weights = {}
    for name, value in stock.vit.state_dict().items():
        name = name.removeprefix("embeddings.").replace(".mlp.fc", ".fc")
        weights[name.replace("patch_embeddings.projection", "patch_projection")] = value
    model.load_state_dict(weights)
    return model


def silva_logits(stock: Any, path: AdapterPath, pixels: torch.Tensor) -> torch.Tensor:
    from silva.models.layers import Adaptation

    branches: dict[str, list[tuple[LoraPair, float]]] = {}
    for each in path.tiers:
        for module, pair in each.pairs.items():
            branches.setdefault(module, []).append((pair, each.scaling))
    head = (path.head.weight, path.head.bias)
    return silva_copy(stock)(pixels, head, Adaptation(branches=branches))


@torch.no_grad()
def test_stock_peft_gives_our_logits_with_a_stack_or_one_adapter(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pixels = torch.randn(5, 3, 8, 8)
    ours = silva_logits(stock_model(), VIT_PATH, pixels)
    leaf_alone = silva_logits(stock_model(), AdapterPath(VIT_PATH.tiers[2:]), pixels)
    assert (ours - leaf_alone).abs().max() > 0.05

    whole = export(VIT_PATH, tmp_path / "whole")
    model = peft.PeftModel.from_pretrained(stock_model(), str(whole)).eval()
    assert torch.allclose(model(pixels).logits, ours, atol=1e-5)

    names = export_stack(VIT_PATH, tmp_path / "stack", base_id="tiny", class_names=CLASSES)
    first, *others = [str(tmp_path / "stack" / name) for name in names]
    model = peft.PeftModel.from_pretrained(stock_model(), first, adapter_name=names[0])
    for name, folder in zip(names[1:], others, strict=True):
        model.load_adapter(folder, adapter_name=name)
    model.base_model.set_adapter(names, inference_mode=True)
    assert torch.allclose(model.eval()(pixels).logits, ours, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rslora", [False, True])
def test_what_stock_peft_saves_is_read_back(tmp_path: Path, rslora: bool) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj", "fc1"], modules_to_save=["classifier"],
        use_rslora=rslora, rank_pattern={"layers.1.mlp.fc1": 2}, alpha_pattern={"q_proj": 7},
        init_lora_weights=False,
    )  # fmt: skip
    model = peft.get_peft_model(stock_model(), config).eval()
    model.save_pretrained(str(tmp_path / "saved"))
    pixels = torch.randn(5, 3, 8, 8)
    found = import_peft(tmp_path / "saved")
    ours = silva_logits(stock_model(), AdapterPath((found,)), pixels)
    assert torch.allclose(model(pixels).logits, ours, atol=1e-5)
