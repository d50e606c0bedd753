from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import silva.data
from silva.data.open import open_dataset
from silva.errors import DataError


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no data named"),
        ("nowhere", "nowhere: no such file or folder; give a path, or one of embedded"),
        ("a\0b", "no usable path|no such file"),
        ("x" * 5000, "cannot be read|no such file"),
    ],
)
def test_no_such_data(name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_dataset(name)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "unknown format"),
        (b"\x1f\x8b\x08garbage", "damaged gzip"),
        (b"PK\x03\x04garbage", "damaged npz"),
        (b"PAR1garbage", "damaged parquet"),
        (b"\x80\x04}.", "unknown format"),
    ],
)
def test_unreadable_files(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        open_dataset(str(tmp_path / "x"))
    assert "\n" not in str(caught.value)


def test_a_zip_of_images_is_no_npz(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cat/1.jpg", b"x")
    with pytest.raises(DataError, match="no images"):
        open_dataset(str(tmp_path / "x.zip"))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in it"):
        open_dataset(str(tmp_path))


def test_names_are_handed_on() -> None:
    assert silva.data.open_dataset is open_dataset
    with pytest.raises(AttributeError, match="no attribute"):
        _ = silva.data.nothing


def test_readers_need_neither_torch_nor_pyarrow() -> None:
    code = (
        "import sys, silva.data.open; print([m for m in ('torch','pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
