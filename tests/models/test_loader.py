from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from silva.errors import ModelError, SilvaError
from silva.models import hf_config, names
from silva.models.backbone import Backbone
from silva.models.loader import load_vit, save_vit

transformers = pytest.importorskip("transformers")

SHAPES: list[dict[str, Any]] = [
    {"hidden_size": 24, "num_attention_heads": 3, "patch_size": 4, "image_size": 8},
    {"hidden_size": 35, "num_attention_heads": 5, "patch_size": 3, "image_size": 9},
    {"hidden_size": 33, "num_attention_heads": 1, "patch_size": 4, "image_size": 10},
    {"hidden_size": 16, "num_attention_heads": 16, "qkv_bias": False, "hidden_act": "gelu_new"},
    {"hidden_size": 20, "num_attention_heads": 2, "hidden_act": "gelu_pytorch_tanh"},
    {"hidden_size": 20, "num_attention_heads": 4, "hidden_act": "quick_gelu", "qkv_bias": False},
    {"hidden_size": 28, "num_attention_heads": 7, "hidden_act": "relu", "layer_norm_eps": 1e-5},
    {"hidden_size": 24, "num_attention_heads": 2, "num_labels": 7, "num_hidden_layers": 3},
]


def random_hf(kind: str = "ViTForImageClassification", **shape: Any) -> Any:
    """A stock transformers model with weights large enough for differences to show."""
    fixed = {"num_hidden_layers": 2, "intermediate_size": 37, "image_size": 12, "patch_size": 4}
    config = transformers.ViTConfig(
        **{**fixed, "hidden_size": 24, "num_attention_heads": 3, **shape}
    )
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.2)
    return model


def logits(backbone: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    assert backbone.head is not None
    return backbone.model(pixels, (backbone.head.weight, backbone.head.bias))


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))


def rename(folder: Path, rule: Any) -> None:
    """Rewrite the weights of `folder` under other names."""
    tensors = load_file(folder / "model.safetensors")
    save_file({rule(k): v for k, v in tensors.items()}, folder / "model.safetensors")


def as_version_5(name: str) -> str:
    silva = names.from_hugging_face(name)
    if not silva.startswith("layers."):
        return name
    prefix = "vit." if name.startswith("vit.") else ""
    return prefix + silva.replace(".fc", ".mlp.fc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_hf().save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(tmp_path: Path, shape: dict[str, Any]) -> None:
    stock = random_hf(**shape)
    stock.save_pretrained(tmp_path)
    backbone = load_vit(tmp_path, "x")
    side = stock.config.image_size
    pixels = torch.randn(3, 3, side, side)
    with torch.no_grad():
        expected = stock(pixels).logits
    torch.testing.assert_close(logits(backbone, pixels), expected, atol=1e-5, rtol=1e-5)
    assert len(backbone.class_names) == expected.shape[1]


def test_names_of_transformers_4_and_5_with_and_without_prefix(folder: Path) -> None:
    digest = load_vit(folder, "x").digest
    assert any("attention.attention.query" in k for k in load_file(folder / "model.safetensors"))
    for rule in (as_version_5, lambda name: name.removeprefix("vit.")):
        rename(folder, rule)
        assert load_vit(folder, "x").digest == digest


def test_version_5_names_are_what_transformers_5_has_in_memory(folder: Path) -> None:
    keys = {as_version_5(k) for k in load_file(folder / "model.safetensors")}
    in_memory = set(random_hf().state_dict())
    if not any(".q_proj." in k for k in in_memory):
        pytest.skip("this transformers has the names of version 4")
    assert keys == in_memory


def test_model_without_head(tmp_path: Path) -> None:
    stock = random_hf("ViTModel")
    stock.save_pretrained(tmp_path)
    backbone = load_vit(tmp_path, "x")
    assert backbone.head is None
    assert backbone.class_names == ()
    pixels = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        expected = stock(pixels).last_hidden_state[:, 0]
    found = backbone.model.features(pixels, last_block="full")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    save_vit(tmp_path / "again", backbone)
    assert load_vit(tmp_path / "again", "x").digest == backbone.digest


def test_sharded(tmp_path: Path) -> None:
    random_hf().save_pretrained(tmp_path / "one")
    random_hf().save_pretrained(tmp_path / "many", max_shard_size="8KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert load_vit(tmp_path / "many", "x").digest == load_vit(tmp_path / "one", "x").digest


@pytest.mark.parametrize(
    "shard", ["../m.safetensors", "/m.safetensors", "m.bin", "a\\m.safetensors"]
)
def test_index_stays_inside_the_folder(folder: Path, shard: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "m.safetensors")
    index = {"weight_map": {"vit.layernorm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="no safetensors file of this folder"):
        load_vit(folder, "x")


def test_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"vit.layernorm.weight": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-1.safetensors is missing; fetch"):
        load_vit(folder, "x")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled.*convert"):
        load_vit(folder, "x")


def test_no_weights_and_no_config(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model.safetensors"):
        load_vit(folder, "x")
    with pytest.raises(ModelError, match=r"no config.json"):
        load_vit(tmp_path, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("vit.layernorm.weight"), r"1 missing tensors: layernorm.weight"),
        (lambda t: t.pop("classifier.bias"), r"missing tensors: classifier.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 unexpected tensors: extra"),
        (
            lambda t: t.update({"vit.layernorm.weight": torch.zeros(3)}),
            r"layernorm.weight is \[3\], not \[24\]",
        ),
        (lambda t: t.update({"layernorm.bias": torch.zeros(24)}), "there twice"),
        (lambda t: t["vit.layernorm.bias"].fill_(float("nan")), "NaN"),
        (
            lambda t: t.update({"vit.layernorm.bias": torch.zeros(24, dtype=torch.int64)}),
            "holds I64",
        ),
        (lambda t: [t.pop(k) for k in list(t) if ".layer.1." in k], r"16 missing.* \.\.\."),
    ],
)
def test_tensors_are_compared_both_ways(folder: Path, change: Any, message: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        load_vit(folder, "x")


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="is no safetensors file"):
        load_vit(folder, "x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "bert"),
        ("hidden_size", 25),
        ("hidden_size", "24"),
        ("hidden_size", 10**9),
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", 0),
        ("num_attention_heads", True),
        ("image_size", [12, 16]),
        ("patch_size", 13),
        ("num_channels", 1),
        ("hidden_act", "sigmoid"),
        ("hidden_act", ["gelu"]),
        ("layer_norm_eps", -1),
        ("layer_norm_eps", 10**400),
        ("qkv_bias", "no"),
        ("id2label", {"0": "a", "2": "b"}),
        ("id2label", ["a"]),
        ("num_labels", -3),
        ("head_dim", 9),
    ],
)
def test_config_mistakes_name_the_field(folder: Path, field: str, value: Any) -> None:
    edit(folder / "config.json", **{field: value})
    named = (
        "num_attention_heads" if (field, value) in [("hidden_size", 25), ("head_dim", 9)] else field
    )
    with pytest.raises(ModelError, match=rf"config\.json: {named}"):
        load_vit(folder, "x")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"a": ' * 100_000, "\x00"])
def test_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_vit(folder, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = [
    *("image_size", "patch_size", "hidden_size", "num_attention_heads", "hidden_act", "qkv_bias"),
    *("layer_norm_eps", "id2label", "num_labels", "architectures", "head_dim", "num_channels"),
]
PIXEL_FIELDS = ["size", "image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
def test_any_config_is_read_or_refused(changes: dict[str, Any]) -> None:
    raw = {"model_type": "vit", **changes}
    try:
        config = hf_config.vit_config(raw, Path("config.json"))
        hf_config.labels(raw, Path("config.json"))
    except SilvaError as error:
        assert "config.json" in str(error)
    else:
        assert config.head_size * config.num_attention_heads == config.hidden_size


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(PIXEL_FIELDS), JSON, max_size=4))
def test_any_preprocessor_is_read_or_refused(tmp_path_factory: Any, raw: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("p") / "preprocessor_config.json"
    path.write_text(json.dumps(raw))
    try:
        pixels = hf_config.read_pixels(path)
    except SilvaError as error:
        assert "preprocessor_config.json" in str(error)
    else:
        assert len(pixels.mean) == len(pixels.std) == 3
        assert min(pixels.std) > 0


@pytest.mark.parametrize(
    ("size", "side"), [(16, 16), ({"height": 16, "width": 16}, 16), ({"shortest_edge": 8}, 8)]
)
def test_preprocessor_gives_normalisation_and_side(folder: Path, size: Any, side: int) -> None:
    plain = load_vit(folder, "x")
    assert (plain.mean, plain.std, plain.side) == ((0.5,) * 3, (0.5,) * 3, 12)
    raw = {"size": size, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(raw))
    backbone = load_vit(folder, "x")
    assert backbone.side == side
    assert backbone.std == (0.4, 0.5, 0.6)
    assert backbone.digest != plain.digest
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    expected = (images / 255 - np.array(backbone.mean)) / np.array(backbone.std)
    np.testing.assert_allclose(
        backbone.pixels(images).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5
    )
    with pytest.raises(ModelError, match="takes uint8"):
        backbone.pixels(images[0])


def test_stock_transformers_reads_what_save_writes(folder: Path, tmp_path: Path) -> None:
    backbone = load_vit(folder, "x")
    save_vit(tmp_path / "full", backbone)
    save_vit(tmp_path / "half", backbone, torch.float16)
    assert load_vit(tmp_path / "full", "y").digest == backbone.digest
    half = load_vit(tmp_path / "half", "y")
    assert all(t.dtype == torch.float32 for t in half.tensors().values())
    weights = "model.safetensors"
    assert (tmp_path / "half" / weights).stat().st_size < (
        tmp_path / "full" / weights
    ).stat().st_size
    pixels = torch.randn(3, 3, 12, 12)
    for name, ours in (("full", backbone), ("half", half)):
        stock = transformers.ViTForImageClassification.from_pretrained(tmp_path / name)
        assert tuple(stock.config.id2label.values()) == ours.class_names
        with torch.no_grad():
            found = stock.eval()(pixels).logits
        torch.testing.assert_close(logits(ours, pixels), found, atol=1e-5, rtol=1e-5)


def test_stock_transformers_finds_every_tensor(folder: Path, tmp_path: Path) -> None:
    save_vit(tmp_path / "out", load_vit(folder, "x"))
    _, info = transformers.ViTForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_saving_twice_gives_equal_bytes_and_no_other_files(folder: Path, tmp_path: Path) -> None:
    backbone = load_vit(folder, "x")
    save_vit(tmp_path / "out", backbone)
    first = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    save_vit(tmp_path / "out", backbone)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == first
    assert set(first) == {"config.json", "preprocessor_config.json", "model.safetensors"}


def test_loaded_weights_do_not_follow_the_file(folder: Path) -> None:
    backbone = load_vit(folder, "x")
    before = {k: v.clone() for k, v in backbone.tensors().items()}
    path = folder / "model.safetensors"
    with path.open("r+b") as opened:
        opened.seek(-4000, 2)
        opened.write(b"\x11" * 4000)
    assert all(torch.equal(before[k], v) for k, v in backbone.tensors().items())


def test_names_come_back() -> None:
    for name in random_hf().state_dict():
        silva = names.from_hugging_face(name)
        assert names.from_hugging_face(names.to_hugging_face(silva)) == silva
    assert names.from_hugging_face("vit.layers.0.attention.z_proj.weight").startswith("vit.")
    assert names.is_ignored("vit.pooler.dense.weight")
    assert not names.is_ignored("classifier.bias")
