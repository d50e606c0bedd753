"""Where a backbone comes from: a name that silva ships or can fetch, a directory, or a file."""

from __future__ import annotations

import os
from pathlib import Path

from silva.errors import ModelError
from silva.models import language_config
from silva.models.backbone import Backbone
from silva.models.config_fields import CONFIG
from silva.models.fetch import KNOWN
from silva.models.fields import read_json
from silva.models.kinds import SHIPPED
from silva.models.loader import load_vit

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def load_backbone(name_or_path: str) -> Backbone:
    """A shipped backbone by name, or a Hugging Face ViT directory by path.

    A name wins over a directory of the same name; ``./silva-vit-tiny`` asks for the directory. The
    id of a directory is its absolute path, so that a forest finds it from anywhere. Raises
    ModelError.
    """
    if name_or_path in SHIPPED:
        folder = ASSETS / name_or_path
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"the weights of {name_or_path} are not installed",
                remedy="reinstall silva, or give a ViT directory (silva pretrain makes one)",
            )
        return load_vit(folder, name_or_path)
    folder = _directory(name_or_path)
    return load_vit(folder, str(folder))


def is_language_model(name_or_path: str) -> bool:
    """Whether a name, directory or file is a language model's, which `Library` resolves.

    False for a directory that is not there: `load_backbone` says so. Raises ModelError for a
    `config.json` that is no JSON.
    """
    if name_or_path in SHIPPED:
        return False
    if name_or_path in KNOWN or name_or_path.lower().endswith(".gguf"):
        return True
    path = os.path.join(name_or_path, CONFIG)
    if not name_or_path or not os.path.isfile(path):
        return False
    return read_json(Path(path)).get("model_type") in language_config.FAMILIES


def _directory(path: str) -> Path:
    # os.path.isdir says no to names that the system refuses; Path.is_dir raises.
    if path and os.path.isdir(path):
        return Path(path).resolve()
    raise ModelError(
        f"no backbone {path[:200]!r}",
        remedy=f"give one of {', '.join(SHIPPED)}, or the path of a Hugging Face ViT directory",
    )
