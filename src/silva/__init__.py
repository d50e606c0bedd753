"""silva: one foundation model, many clients; a forest of LoRA adapters tuned where the data lives.

    forest = silva.tune(config, "forest")
    forest = silva.Forest.load("forest")

The names below are imported when first used, so that `import silva` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = ["Forest", "TuneConfig", "__version__", "resume", "tune"]

_PUBLIC = dict.fromkeys(("Forest", "TuneConfig", "resume", "tune"), "silva.api")
"""Public name -> the module that holds it."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'silva' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
