"""Pictures to try a forest with at once: one of each class of the embedded data, as PNG."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass

SIDE = 28
"""Of the embedded pictures, in pixels."""


@dataclass(frozen=True)
class Sample:
    """A picture and what is on it."""

    label: str
    png: bytes


def sample_pictures(labels: Sequence[str]) -> tuple[Sample, ...]:
    """Pictures for a forest of these classes; none where they are not those of the embedded data.

    Raises DataError where the embedded data are damaged.
    """
    return _embedded(frozenset(labels)) if labels else ()


@functools.cache
def _embedded(labels: frozenset[str]) -> tuple[Sample, ...]:
    import numpy as np
    from PIL import Image

    from silva.data.embedded import read_embedded
    from silva.data.nouns import TEST

    data = read_embedded()
    if not labels <= set(data.class_names):
        return ()
    found = []
    for number, label in enumerate(data.class_names):
        rows = np.flatnonzero((data.labels == number) & (data.split == TEST))[:1]
        file = io.BytesIO()
        Image.fromarray(data.source.load(rows, SIDE)[0]).save(file, "PNG")
        found.append(Sample(label, file.getvalue()))
    return tuple(found)
