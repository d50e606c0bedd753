from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from silva.data import sources
from silva.data.sources import ArraySource, EncodedSource, FileSource, decode_image
from silva.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    return start + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT"


def rows(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def test_pixels_of_the_same_side_are_untouched() -> None:
    assert np.array_equal(decode_image(encoded(Image.fromarray(PIXELS)), 8, "x"), PIXELS)


def test_an_integer_factor_takes_exact_means() -> None:
    small = decode_image(encoded(Image.fromarray(PIXELS)), 4, "x")
    means = PIXELS.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 0.5


@pytest.mark.parametrize("size", [(5, 7), (28, 28), (3, 40)])
def test_any_size_fits(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    assert (decode_image(encoded(image), 16, "x") == (10, 200, 30)).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_formats(form: str) -> None:
    found = decode_image(encoded(Image.new("RGB", (64, 48), (200, 40, 40)), form), 8, "x")
    assert np.abs(found.astype(int) - (200, 40, 40)).max() <= 3


def test_grey_palette_transparent_and_16_bit() -> None:
    assert (decode_image(encoded(Image.new("L", (4, 4), 7)), 4, "x") == 7).all()
    assert (decode_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), 4, "x") == 255).all()
    assert decode_image(encoded(Image.fromarray(PIXELS).convert("P")), 4, "x").shape == (4, 4, 3)
    deep = Image.fromarray(np.full((4, 4), 0x8001, dtype=np.uint16))
    assert (decode_image(encoded(deep), 4, "x") == 0x80).all()


def test_turned_as_exif_says() -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    found = decode_image(encoded(image, exif=exif), 4, "x")
    assert found[:2, 2:].mean() > found[:2, :2].mean()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"GIF89a", "."),
        (b"<html>not found</html>", "unknown format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "unknown format"),
        (encoded(Image.fromarray(PIXELS))[:-30], "."),
        (encoded(Image.fromarray(PIXELS), "JPEG")[:-200], "."),
        (png_header(30_000, 30_000), "limit is"),
        (png_header(12_000, 9_000), "108?000000|12000 x 9000 pixels"),
    ],
)
def test_bad_images_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        decode_image(data, 8, "train/cat/7.jpg")
    assert str(caught.value).startswith("train/cat/7.jpg: ")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_without_a_warning() -> None:
    with pytest.raises(DataError, match="decompression bomb"):
        decode_image(png_header(10_000, 10_000), 8, "x")


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP"]))
def test_mutated_images_are_read_or_data_errors(data: st.DataObject, form: str) -> None:
    text = bytearray(encoded(Image.fromarray(PIXELS), form))
    for _ in range(data.draw(st.integers(1, 6))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_image(bytes(text), 4, "x").shape == (4, 4, 3)
    except DataError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "shape", [(5, 6, 6), (5, 6, 6, 1), (5, 6, 6, 3), (5, 3, 6, 6), (5, 1, 6, 6)]
)
@pytest.mark.parametrize("side", [6, 3, 8])
def test_array_layouts(shape: tuple[int, ...], side: int) -> None:
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    found = ArraySource(images).load(rows(4, 0, 4), side)
    assert found.shape == (3, side, side, 3)
    assert np.array_equal(found[0], found[2])
    if side == 6 and shape[-1] == 3:
        assert np.array_equal(found[0], images[4])


def test_array_and_file_give_the_same_pixels() -> None:
    array = ArraySource(PIXELS[None]).load(rows(0), 5)
    file = EncodedSource.from_list([encoded(Image.fromarray(PIXELS))]).load(rows(0), 5)
    assert np.array_equal(array, file)


@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 4, 4, 2), (2, 0, 4), (1, 2, 3, 4, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="shape"):
        ArraySource(np.zeros(shape, np.uint8))


def test_other_types_are_refused() -> None:
    with pytest.raises(DataError, match="float32, not uint8"):
        ArraySource(np.zeros((2, 4, 4), np.float32))  # type: ignore[arg-type]


def test_encoded_source_names_the_damaged_image() -> None:
    source = EncodedSource.from_list([encoded(Image.fromarray(PIXELS)), b"no image"], "set.npz")
    assert len(source) == 2
    source.load(rows(0), 8)
    with pytest.raises(DataError, match=r"set\.npz: image 1: not a readable image"):
        source.load(rows(0, 1), 8)


@settings(max_examples=200)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 12), max_size=6))
def test_offsets_are_checked(offsets: list[int]) -> None:
    blob = np.zeros(10, dtype=np.uint8)
    sound = bool(offsets) and offsets == sorted(offsets) and offsets[0] >= 0 and offsets[-1] <= 10
    if sound:
        assert len(EncodedSource(blob, np.array(offsets, dtype=np.int64))) == len(offsets) - 1
    else:
        with pytest.raises(DataError):
            EncodedSource(blob, np.array(offsets, dtype=np.int64))


def test_file_source(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    source = FileSource(tmp_path, ["a.png", "b.png", "gone.png", "pipe.png", "folder.png"])
    assert np.array_equal(source.load(rows(0), 8)[0], PIXELS)
    for row, reason in enumerate(["empty file", "No such file", "not a regular", ".*"], start=1):
        with pytest.raises(DataError, match=reason) as caught:
            source.load(rows(row), 8)
        assert ".png" in str(caught.value)


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100)
    (tmp_path / "a.png").write_bytes(b"x" * 101)
    with pytest.raises(DataError, match="limit is 100"):
        FileSource(tmp_path, ["a.png"]).load(rows(0), 8)


def test_a_digest_tells_images_and_their_order_from_others(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    files = [encoded(Image.fromarray(image)) for image in pixels]
    for n, content in enumerate(files):
        (tmp_path / f"{n}.png").write_bytes(content)
    turned = [0, 2, 1]
    names = ["0.png", "1.png", "2.png"]
    for one, again, other in (
        (ArraySource(pixels), ArraySource(pixels.copy()), ArraySource(pixels[turned])),
        (
            EncodedSource.from_list(files),
            EncodedSource.from_list(list(files)),
            EncodedSource.from_list([files[n] for n in turned]),
        ),
        (
            FileSource(tmp_path, names),
            FileSource(tmp_path, list(names)),
            FileSource(tmp_path, [names[n] for n in turned]),
        ),
    ):
        assert one.digest() == again.digest() != other.digest()


def test_the_digest_of_files_is_of_their_paths_and_sizes(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "a.png").write_bytes(b"12345")
    source = FileSource(tmp_path, ["a.png", "gone.png", odd])
    before = source.digest()
    (tmp_path / "a.png").write_bytes(b"54321")
    assert source.digest() == before
    (tmp_path / "a.png").write_bytes(b"123456")
    assert source.digest() != before
