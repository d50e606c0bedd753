from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.data import idx
from silva.data.idx import read_idx, read_idx_set
from silva.data.open import open_dataset
from silva.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 1, 0], dtype=np.uint8)


def idx_bytes(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_set(folder: Path, prefix: str = "", *, packed: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    for side, rows in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        for name, array in (("images-idx3", IMAGES[rows]), ("labels-idx1", LABELS[rows])):
            data = idx_bytes(array)
            path = folder / f"{prefix}{side}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_and_any_of_its_files(tmp_path: Path, packed: bool) -> None:
    write_set(tmp_path, packed=packed)
    for path in (tmp_path, *tmp_path.iterdir()):
        found = open_dataset(str(path))
        assert found.labels.tolist() == LABELS.tolist()
        assert found.class_names == ("0", "1", "2")
        assert found.split is not None
        assert found.split.tolist() == [0, 0, 0, 1, 1]
        assert found.source.load(np.array([4]), 4).shape == (1, 4, 4, 3)


def test_several_sets_in_one_folder(tmp_path: Path) -> None:
    write_set(tmp_path, "emnist-letters-")
    write_set(tmp_path, "emnist-digits-")
    with pytest.raises(DataError, match="several IDX sets"):
        open_dataset(str(tmp_path))
    path = tmp_path / "emnist-letters-train-images-idx3-ubyte.gz"
    assert open_dataset(str(path)).title == "emnist-letters"


def test_train_alone_has_no_split(tmp_path: Path) -> None:
    write_set(tmp_path)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    assert read_idx_set(tmp_path).split is None


def test_labels_missing_or_of_another_number(tmp_path: Path) -> None:
    write_set(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(LABELS)))
    with pytest.raises(DataError, match="do not belong together"):
        open_dataset(str(tmp_path))
    labels.unlink()
    with pytest.raises(DataError, match="is missing"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an IDX"),
        (idx_bytes(IMAGES)[:7], "header is cut short"),
        (idx_bytes(IMAGES)[:-1], "fewer bytes"),
        (idx_bytes(IMAGES) + b"x", "more bytes"),
        (b"\0\0\x0d\x01" + bytes(20), "not an IDX"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 2**31), "header claims"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-12], "cannot be read"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:12], "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "pixels").write_bytes(idx_bytes(IMAGES))
    with pytest.raises(DataError, match="name does not tell"):
        open_dataset(str(tmp_path / "pixels"))


def test_an_empty_set(tmp_path: Path) -> None:
    for name, array in (("images-idx3", IMAGES[:0]), ("labels-idx1", LABELS[:0])):
        (tmp_path / f"train-{name}-ubyte").write_bytes(idx_bytes(array))
    with pytest.raises(DataError, match="no images"):
        open_dataset(str(tmp_path))


def test_fashion_is_known_by_its_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256(LABELS[:3].tobytes()).hexdigest()
    monkeypatch.setattr(idx, "_FASHION_LABELS", {digest})
    write_set(tmp_path)
    found = open_dataset(str(tmp_path))
    assert found.title == "Fashion-MNIST"
    assert found.class_names[9] == "Ankle boot"


@settings(max_examples=150)
@given(data=st.data())
def test_mutated_files_are_read_or_data_errors(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = bytearray(idx_bytes(IMAGES))
    if data.draw(st.booleans()):
        text = bytearray(gzip.compress(bytes(text)))
    for _ in range(data.draw(st.integers(0, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.idx"
    path.write_bytes(text[: data.draw(st.integers(0, len(text)))])
    try:
        assert read_idx(path).dtype == np.uint8
    except DataError as error:
        assert "\n" not in str(error)
