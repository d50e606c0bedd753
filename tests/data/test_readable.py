from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from silva.data.nouns import ClientRows
from silva.data.readable import check_images
from silva.data.sources import ArraySource, EncodedSource
from silva.errors import DataError

STREAM = io.BytesIO()
Image.new("RGB", (4, 4), (9, 99, 199)).save(STREAM, "PNG")
PICTURE = STREAM.getvalue()
TOTAL = 150


def clients(*rows: range) -> list[ClientRows]:
    return [ClientRows(f"c-{n}", np.array(r[:-1]), np.array(r[-1:])) for n, r in enumerate(rows)]


def test_every_image_is_read_once_and_heard_of() -> None:
    heard: list[tuple[int, int]] = []
    source = EncodedSource.from_list([PICTURE] * TOTAL)
    shared = clients(range(100), range(90, TOTAL))
    check_images(source, shared, lambda *counts: heard.append(counts))
    assert heard == [(64, TOTAL), (128, TOTAL), (TOTAL, TOTAL)]


def test_a_damaged_image_is_named_and_ends_it() -> None:
    heard: list[tuple[int, int]] = []
    source = EncodedSource.from_list([PICTURE] * 70 + [b"no image"] + [PICTURE] * 79, "set")
    with pytest.raises(DataError, match="set: image 70"):
        check_images(source, clients(range(TOTAL)), lambda *counts: heard.append(counts))
    assert heard == [(64, TOTAL)]


def test_only_images_of_clients_are_read() -> None:
    source = EncodedSource.from_list([PICTURE] * 10 + [b"no image"])
    check_images(source, clients(range(10)))


def test_decoded_images_need_no_reading() -> None:
    heard: list[tuple[int, int]] = []
    source = ArraySource(np.zeros((TOTAL, 4, 4, 3), dtype=np.uint8))
    check_images(source, clients(range(TOTAL)), lambda *counts: heard.append(counts))
    assert heard == []
