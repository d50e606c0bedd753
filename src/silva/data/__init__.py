"""Images with labels, and who owns which: readers, partitions, styles. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silva.data.nouns import ClientRows, ImageDataset, ImageSource, Partition
    from silva.data.open import open_dataset
    from silva.data.split import split_rows

__all__ = [
    "ClientRows",
    "ImageDataset",
    "ImageSource",
    "Partition",
    "open_dataset",
    "split_rows",
]

_HOMES = {
    "ClientRows": "nouns",
    "ImageDataset": "nouns",
    "ImageSource": "nouns",
    "Partition": "nouns",
    "open_dataset": "open",
    "split_rows": "split",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
