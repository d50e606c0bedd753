"""Foundation models: the Vision Transformer and the language models, their files and where they are.

Names are handed on when first asked for, since they bring torch with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silva.models.adapted import adaptation_of
    from silva.models.backbone import Backbone
    from silva.models.language_loader import load_language_model
    from silva.models.layers import NO_ADAPTATION, Adaptation
    from silva.models.library import Library
    from silva.models.loader import load_vit, save_vit
    from silva.models.registry import load_backbone
    from silva.models.text import load_text
    from silva.models.vit import ViT, ViTConfig

_HOME = {
    "NO_ADAPTATION": "layers",
    "Adaptation": "layers",
    "Backbone": "backbone",
    "Library": "library",
    "ViT": "vit",
    "ViTConfig": "vit",
    "adaptation_of": "adapted",
    "load_backbone": "registry",
    "load_language_model": "language_loader",
    "load_text": "text",
    "load_vit": "loader",
    "save_vit": "loader",
}

__all__ = [
    "NO_ADAPTATION",
    "Adaptation",
    "Backbone",
    "Library",
    "ViT",
    "ViTConfig",
    "adaptation_of",
    "load_backbone",
    "load_language_model",
    "load_text",
    "load_vit",
    "save_vit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
