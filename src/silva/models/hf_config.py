"""The two JSON files of a Hugging Face ViT directory, checked field by field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silva.errors import ModelError
from silva.models.fields import is_number, read_json, refused, short
from silva.models.layers import ACTIVATIONS
from silva.models.vit import ViTConfig

LARGEST_CLASSES = 1_000_000

_HIGHEST = {
    "image_size": 4096,
    "patch_size": 1024,
    "hidden_size": 16_384,
    "num_hidden_layers": 512,
    "num_attention_heads": 512,
    "intermediate_size": 131_072,
}
_DEFAULT = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
"""What transformers takes for a field that `config.json` leaves out."""


@dataclass(frozen=True)
class Labels:
    """What `config.json` says of the classifier: `count` is None where it says nothing."""

    count: int | None
    names: tuple[str, ...]
    expected: bool


@dataclass(frozen=True)
class Pixels:
    """How images become pixels: mean and std one a channel, side None where the file is silent."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    side: int | None = None


def vit_config(raw: dict[str, Any], where: Path) -> ViTConfig:
    """Shape of the model that `config.json` describes. Raises ModelError naming the field."""
    if raw.get("model_type") != "vit":
        raise ModelError(
            f"model_type is {short(raw.get('model_type'))}",
            where=where,
            remedy="silva reads Hugging Face ViTModel and ViTForImageClassification directories",
        )
    sizes = {name: _size(raw, name, where) for name in _HIGHEST}
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if hidden % heads or raw.get("head_dim") not in (None, hidden // heads):
        raise refused("num_attention_heads", f"{heads} heads do not share {hidden} evenly", where)
    if sizes["patch_size"] > sizes["image_size"]:
        raise refused("patch_size", "a patch is larger than the image", where)
    channels = raw.get("num_channels", 3)
    if channels != 3:
        raise refused("num_channels", f"{short(channels)}, but silva feeds RGB images", where)
    activation = raw.get("hidden_act", "gelu")
    if activation not in list(ACTIVATIONS):
        known = ", ".join(ACTIVATIONS)
        raise refused("hidden_act", f"{short(activation)} is not one of {known}", where)
    bias = raw.get("qkv_bias", True)
    if not isinstance(bias, bool):
        raise refused("qkv_bias", f"{short(bias)} is neither true nor false", where)
    eps = raw.get("layer_norm_eps", 1e-12)
    if not is_number(eps) or not 0 <= eps <= 1:
        raise refused("layer_norm_eps", f"{short(eps)} is not in [0, 1]", where)
    return ViTConfig(**sizes, hidden_act=activation, layer_norm_eps=float(eps), qkv_bias=bias)


def _size(raw: dict[str, Any], name: str, where: Path) -> int:
    """A positive integer within limits; square pairs such as [224, 224] count as one number."""
    value = raw.get(name, _DEFAULT[name])
    if name in ("image_size", "patch_size") and isinstance(value, list):
        if len(value) != 2 or value[0] != value[1]:
            raise refused(name, f"{short(value)} is not square", where)
        value = value[0]
    if type(value) is not int or not 1 <= value <= _HIGHEST[name]:
        raise refused(name, f"{short(value)} is not in 1 to {_HIGHEST[name]}", where)
    return value


def labels(raw: dict[str, Any], where: Path) -> Labels:
    """Classes that `config.json` names. Raises ModelError when their numbers have gaps."""
    table, number = raw.get("id2label"), raw.get("num_labels")
    architectures = raw.get("architectures")
    classifier = isinstance(architectures, list) and "ViTForImageClassification" in architectures
    if table is None:
        if number is None:
            return Labels(None, (), classifier)
        if type(number) is not int or not 0 <= number <= LARGEST_CLASSES:
            raise refused("num_labels", f"{short(number)} is no number of classes", where)
        return Labels(number, default_names(number), classifier and number > 0)
    if not isinstance(table, dict) or len(table) > LARGEST_CLASSES:
        raise refused("id2label", "is not a table of class names", where)
    names = tuple(table.get(str(n)) for n in range(len(table)))
    if not all(isinstance(name, str) and len(name) <= 1000 for name in names):
        raise refused("id2label", f"does not name classes 0 to {len(table) - 1}", where)
    return Labels(len(names), tuple(str(n) for n in names), classifier and len(names) > 0)


def default_names(count: int) -> tuple[str, ...]:
    """Names that transformers gives to classes nobody named."""
    return tuple(f"LABEL_{n}" for n in range(count))


def read_pixels(path: Path) -> Pixels:
    """Mean, std and side from `preprocessor_config.json`; the defaults where there is no file."""
    if not path.exists():
        return Pixels()
    raw = read_json(path)
    factor = raw.get("rescale_factor", 1 / 255)
    if raw.get("do_rescale", True) is not True:
        raise refused("do_rescale", "silva feeds pixels in [0, 1]", path)
    if not is_number(factor) or abs(factor - 1 / 255) > 1e-6:
        raise refused("rescale_factor", "is not 1/255", path)
    side = _side(raw.get("size"), path)
    if raw.get("do_normalize", True) is False:
        return Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), side)
    mean = _triple(raw, "image_mean", path)
    std = _triple(raw, "image_std", path)
    if min(std) <= 0:
        raise refused("image_std", "is not positive", path)
    return Pixels(mean, std, side)


def _triple(raw: dict[str, Any], name: str, where: Path) -> tuple[float, ...]:
    value = raw.get(name, [0.5, 0.5, 0.5])
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(is_number(v) and abs(v) <= 1e6 for v in values):
        raise refused(name, f"{short(value)} is not three finite numbers", where)
    return tuple(float(v) for v in values)


def _side(size: object, where: Path) -> int | None:
    """One side from what transformers writes: 224, {"height", "width"} or {"shortest_edge"}."""
    if size is None:
        return None
    side, other = size, size
    if isinstance(size, dict):
        side = size.get("height", size.get("shortest_edge"))
        other = size.get("width", side)
    if type(side) is not int or side != other or not 1 <= side <= 4096:
        raise refused("size", f"{short(size)} is not one square side in 1 to 4096", where)
    return side
