"""Which kind of model a name stands for, without loading any: imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from silva.models.config_fields import CONFIG
from silva.models.fields import read_json

SHIPPED = ("silva-vit-tiny",)
"""Names of the backbones in `silva/assets`; no other name is ever looked up there."""


def is_image_model(name_or_path: str) -> bool:
    """Whether a name or directory is a Vision Transformer's, which `silva.models.registry` loads.

    Raises ModelError for a `config.json` that is no JSON.
    """
    if name_or_path in SHIPPED:
        return True
    path = os.path.join(name_or_path, CONFIG)
    if not name_or_path or not os.path.isfile(path):
        return False
    return read_json(Path(path)).get("model_type") == "vit"
