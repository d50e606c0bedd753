"""Tensor names of Hugging Face ViT files, of transformers 4 and 5, and the names silva gives them.

| transformers 4, and on disk                      | transformers 5 in memory  | silva             |
|--------------------------------------------------|---------------------------|-------------------|
| encoder.layer.N.attention.attention.query        | layers.N.attention.q_proj | as 5              |
| encoder.layer.N.attention.output.dense           | layers.N.attention.o_proj | as 5              |
| encoder.layer.N.intermediate.dense, output.dense | layers.N.mlp.fc1, mlp.fc2 | layers.N.fc1, fc2 |
| embeddings.patch_embeddings.projection           | as 4                      | patch_projection  |
| classifier                                       | as 4                      | head              |

All but the classifier may carry the prefix ``vit.`` (ViTForImageClassification).
"""

from __future__ import annotations

import re

PREFIX = "vit."

_IGNORED = re.compile(r"pooler\.|embeddings\.mask_token$")
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(0|[1-9]\d{0,3})\.(.+)\.(weight|bias)")

_IN_BLOCK = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
_IN_BLOCK_5 = {
    **{f"attention.{p}_proj": f"attention.{p}_proj" for p in "qkvo"},
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "position_embeddings",
    "embeddings.patch_embeddings.projection.weight": "patch_projection.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_projection.bias",
    "layernorm.weight": "layernorm.weight",
    "layernorm.bias": "layernorm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
}
_READ = {**_IN_BLOCK, **_IN_BLOCK_5}
_WRITE = {silva: hf for hf, silva in _IN_BLOCK.items()}
_WRITE_OUTSIDE = {silva: hf for hf, silva in _OUTSIDE.items()}


def is_ignored(name: str) -> bool:
    """Whether a tensor belongs to a part that silva has no use for: the pooler, the mask token."""
    return bool(_IGNORED.match(name.removeprefix(PREFIX)))


def from_hugging_face(name: str) -> str:
    """silva's name of a Hugging Face tensor; a name without a counterpart comes back unchanged."""
    bare = name.removeprefix(PREFIX)
    if bare in _OUTSIDE:
        return _OUTSIDE[bare]
    match = _BLOCK.fullmatch(bare)
    if match and match[2] in _READ:
        return f"layers.{match[1]}.{_READ[match[2]]}.{match[3]}"
    return name


def to_hugging_face(name: str, prefix: str = PREFIX) -> str:
    """Name of silva's tensor on disk.

    These are the names of transformers 4: version 5 still writes them, and both versions read them.
    """
    if name.startswith("head."):
        return _WRITE_OUTSIDE[name]
    if name in _WRITE_OUTSIDE:
        return prefix + _WRITE_OUTSIDE[name]
    _, number, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    return f"{prefix}encoder.layer.{number}.{_WRITE[module]}.{kind}"
