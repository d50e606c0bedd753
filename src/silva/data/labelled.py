"""One client's examples as they came from outside: image files in memory, and names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from silva.data.nouns import ImageDataset
from silva.data.sources import EncodedSource
from silva.errors import DataError

EXAMPLES = "examples"
"""What errors call them."""


@dataclass(frozen=True)
class LabelledFiles:
    """Image files, whole, and the name of the class of each; nothing of them is believed."""

    files: tuple[bytes, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def dataset(self, class_names: Sequence[str]) -> ImageDataset:
        """The same with labels numbered as `class_names`. Images are decoded when they are loaded.

        Raises DataError for a label that is none of them.
        """
        known = {name: n for n, name in enumerate(class_names)}
        for n, label in enumerate(self.labels):
            if label not in known:
                raise DataError(
                    f"the label {label[:40]!r} is no class of the forest",
                    where=f"{EXAMPLES}.{n}",
                    remedy=f"name classes as the forest does, e.g. {', '.join(class_names[:3])}",
                )
        numbers = np.array([known[label] for label in self.labels], dtype=np.int64)
        source = EncodedSource.from_list(self.files, EXAMPLES)
        return ImageDataset(source, numbers, tuple(class_names), title=EXAMPLES)
