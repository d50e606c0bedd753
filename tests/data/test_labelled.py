"""A client's examples in memory become the data set that a reader would make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silva.data.labelled import LabelledFiles
from silva.data.nouns import ImageSource
from silva.data.sources import ArraySource, EncodedSource, FileSource
from silva.errors import DataError

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (3, 20, 14, 3), dtype=np.uint8)


def as_files(folder: Path) -> FileSource:
    for n, pixels in enumerate(COLOUR):
        Image.fromarray(pixels).save(folder / f"{n}.jpg")
    return FileSource(folder, [f"{n}.jpg" for n in range(len(COLOUR))])


@pytest.mark.parametrize("side", [14, 7, 32])
@pytest.mark.parametrize("kind", ["colour", "grey", "channels first", "files", "encoded"])
def test_an_image_sent_as_a_file_gives_the_same_pixels(
    tmp_path: Path, kind: str, side: int
) -> None:
    files = as_files(tmp_path)
    sources: dict[str, ImageSource] = {
        "colour": ArraySource(COLOUR),
        "grey": ArraySource(COLOUR[..., 0]),
        "channels first": ArraySource(COLOUR.transpose(0, 3, 1, 2)),
        "files": files,
        "encoded": EncodedSource.from_list([files.file(n) for n in range(3)]),
    }
    source, rows = sources[kind], np.arange(3)
    sent = LabelledFiles(tuple(source.file(n) for n in range(3)), ("a", "b", "a"))
    dataset = sent.dataset(("b", "a"))
    assert dataset.labels.tolist() == [1, 0, 1] and dataset.class_names == ("b", "a")
    np.testing.assert_array_equal(dataset.source.load(rows, side), source.load(rows, side))


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(DataError, match=r"examples\.1: the label 'c' is no class of the forest"):
        LabelledFiles((b"", b""), ("a", "c")).dataset(("a", "b"))
