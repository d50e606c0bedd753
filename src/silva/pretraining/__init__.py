"""Supervised pre-training of the default backbone.

Names are handed on when first asked for, since they bring torch with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silva.pretraining.config import PretrainConfig, Stage
    from silva.pretraining.train import LabelledImages, Pretrained, pretrain

_HOME = {
    "LabelledImages": "train",
    "PretrainConfig": "config",
    "Pretrained": "train",
    "Stage": "config",
    "pretrain": "train",
}

__all__ = ["LabelledImages", "PretrainConfig", "Pretrained", "Stage", "pretrain"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
