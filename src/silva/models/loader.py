"""Hugging Face ViT directories: `config.json`, `preprocessor_config.json`, `*.safetensors`.

A directory is input from outside. Nothing in it is executed (pickled weights are refused), file
names in an index stay inside the directory, and shapes are compared with the configuration before
anything is allocated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from silva.adapters.tiers import Head
from silva.errors import ModelError
from silva.models import hf_config, names
from silva.models.backbone import Backbone
from silva.models.fields import read_json
from silva.models.vit import ViT, ViTConfig
from silva.models.weight_files import WEIGHTS, compare_shapes, weight_files

LARGEST_WEIGHTS_BYTES = 32 << 30
_FLOATS = ("F16", "BF16", "F32", "F64")


def load_vit(folder: Path, name: str) -> Backbone:
    """Read a ViTForImageClassification or ViTModel directory as float32, frozen.

    `name` becomes the backbone's id. Raises ModelError naming the file and what is wrong with it.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelError(
            "no config.json here",
            where=folder,
            remedy="give a Hugging Face ViT directory (config.json and model.safetensors)",
        )
    raw = read_json(config_path)
    config = hf_config.vit_config(raw, config_path)
    labels = hf_config.labels(raw, config_path)
    pixels = hf_config.read_pixels(folder / "preprocessor_config.json")
    side = config.image_size if pixels.side is None else pixels.side
    if side < config.patch_size:
        raise ModelError(
            f"size: {side} pixels are less than a patch", where=folder / "preprocessor_config.json"
        )
    with torch.device("meta"):
        model = ViT(config)
    tensors = _read_tensors(folder, model, labels)
    head = None
    if "head.weight" in tensors:
        head = Head(tensors.pop("head.weight"), tensors.pop("head.bias"))
    model.load_state_dict(tensors, assign=True)
    class_names: tuple[str, ...] = ()
    if head is not None:
        class_names = labels.names or hf_config.default_names(len(head.weight))
    return Backbone.of(name, model, head, class_names, pixels.mean, pixels.std, side)


def _read_tensors(folder: Path, model: ViT, labels: hf_config.Labels) -> dict[str, Tensor]:
    """All tensors by silva's names, compared with the model both ways before they are read."""
    files = weight_files(folder)
    total = sum(path.stat().st_size for path in files)
    if total > LARGEST_WEIGHTS_BYTES:
        raise ModelError(f"{total >> 30} GiB of weights, more than silva reads", where=folder)
    with ExitStack() as stack:
        source: dict[str, tuple[Any, str]] = {}
        for path in files:
            try:
                opened = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    f"is no safetensors file ({str(error)[:120]})",
                    where=path,
                    remedy="fetch the model directory again",
                ) from None
            for hf_name in opened.keys():  # noqa: SIM118  (not a mapping)
                if names.is_ignored(hf_name):
                    continue
                name = names.from_hugging_face(hf_name)
                if name in source:
                    raise ModelError(f"tensor {hf_name} is there twice", where=path)
                source[name] = (opened, hf_name)
        shapes = {n: tuple(o.get_slice(hf).get_shape()) for n, (o, hf) in source.items()}
        on_disk = partial(names.to_hugging_face, prefix="")
        compare_shapes(shapes, _expected(model, labels, shapes), folder, on_disk)
        return {n: _read(*source[n], folder) for n in sorted(source)}


def _expected(
    model: ViT, labels: hf_config.Labels, found: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shapes that the configuration asks for; a head where it, or the file, has one."""
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if labels.expected or "head.weight" in found or "head.bias" in found:
        rows = labels.count or (found.get("head.weight") or (0,))[0]
        shapes |= {"head.weight": (rows, model.config.hidden_size), "head.bias": (rows,)}
    return shapes


def _read(opened: Any, name: str, folder: Path) -> Tensor:
    """One tensor as float32 in memory of its own: the file may change while the model lives."""
    kind = opened.get_slice(name).get_dtype()
    if kind not in _FLOATS:
        raise ModelError(f"{name} holds {kind}", where=folder, remedy="silva reads float weights")
    tensor: Tensor = opened.get_tensor(name).to(torch.float32, copy=True)
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError(f"{name} holds NaN or infinite values", where=folder)
    return tensor


def save_vit(folder: Path, backbone: Backbone, dtype: torch.dtype = torch.float32) -> None:
    """Write a directory that `load_vit` and stock transformers' `from_pretrained` read.

    float16 halves the file; readers calculate in float32 all the same. Every file is replaced as a
    whole, `config.json` last, so a directory without one is an unfinished directory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "" if backbone.head is None else names.PREFIX
    tensors = {
        names.to_hugging_face(name, prefix): tensor.to(dtype).contiguous()
        for name, tensor in backbone.tensors().items()
    }
    _write(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    _write(folder / "preprocessor_config.json", _json(_preprocessor(backbone)))
    _write(folder / "config.json", _json(_config(backbone.model.config, backbone)))


def _config(config: ViTConfig, backbone: Backbone) -> dict[str, Any]:
    architecture = "ViTModel" if backbone.head is None else "ViTForImageClassification"
    fixed = {"architectures": [architecture], "model_type": "vit", "dtype": "float32"}
    described = {**fixed, **asdict(config)}
    if backbone.head is not None:
        described["id2label"] = {str(n): name for n, name in enumerate(backbone.class_names)}
        described["label2id"] = {name: n for n, name in enumerate(backbone.class_names)}
    return described


def _preprocessor(backbone: Backbone) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": backbone.side, "width": backbone.side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(backbone.mean),
        "image_std": list(backbone.std),
    }


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.tmp")
    with scratch.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    scratch.replace(path)
