"""The adapter forest: tiers, their store on disk, and exchange with PEFT."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silva.adapters.change import Change, NewClient, NewCluster
    from silva.adapters.forest import Forest
    from silva.adapters.manifest import BaseModel
    from silva.adapters.peft import export_peft, import_peft
    from silva.adapters.tiers import AdapterPath, Head, LoraPair, Tier

_HOMES = {
    "AdapterPath": "tiers",
    "BaseModel": "manifest",
    "Change": "change",
    "Forest": "forest",
    "Head": "tiers",
    "LoraPair": "tiers",
    "NewClient": "change",
    "NewCluster": "change",
    "Tier": "tiers",
    "export_peft": "peft",
    "import_peft": "peft",
}
__all__ = [
    "AdapterPath",
    "BaseModel",
    "Change",
    "Forest",
    "Head",
    "LoraPair",
    "NewClient",
    "NewCluster",
    "Tier",
    "export_peft",
    "import_peft",
]


def __getattr__(name: str) -> Any:
    # Names are looked up late: importing the package does not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
