from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from silva.data import tables
from silva.data.open import open_dataset
from silva.data.tables import load_arrays, read_npz
from silva.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def blob_arrays() -> dict[str, Any]:
    files = [png(image) for image in IMAGES]
    return {
        "blob": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "label": np.array([0, 1, 1, 2], np.uint8),
        "split": np.array([0, 0, 0, 1], np.uint8),
        "class_names": np.array(["ant", "bee", "cat"]),
        "domain": np.array([0, 1, 0, 1], np.uint8),
        "domain_names": np.array(["photo", "sketch"]),
        "wnid": np.array(["n1", "n2", "n3"]),
        "weight": np.ones(4),
    }


def save(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_blob_and_offsets(tmp_path: Path) -> None:
    found = open_dataset(str(save(tmp_path, **blob_arrays())))
    assert found.class_names == ("ant", "bee", "cat")
    assert found.split is not None
    assert found.split.tolist() == [0, 0, 0, 1]
    assert found.columns.keys() == {"domain"}
    assert found.names == {"domain": ("photo", "sketch")}
    assert np.array_equal(found.source.load(np.array([3, 0]), 6), IMAGES[[3, 0]])


def test_another_label_column_and_split(tmp_path: Path) -> None:
    path = save(tmp_path, **blob_arrays())
    by_domain = open_dataset(str(path), labels="domain")
    assert by_domain.class_names == ("photo", "sketch")
    assert by_domain.names["label"] == ("ant", "bee", "cat")
    shared = open_dataset(str(path), split="0.5")
    assert shared.split is not None
    assert shared.split[[1, 2]].sum() == 1


def test_plain_arrays_words_and_clients(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        images=IMAGES[..., 0],
        labels=np.array(["bee", "ant", "bee", "ant"]),
        part=np.array(["train", "test", "train", "validation"]),
        client=np.array([10, 11, 10, 12]),
    )
    found = open_dataset(str(path), split="part")
    assert found.class_names == ("ant", "bee")
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.split is not None
    assert found.split.tolist() == [0, 1, 0, 0]
    assert found.columns["client"].tolist() == [10, 11, 10, 12]
    assert "client" not in found.names


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_arrays_a_side(tmp_path: Path, keys: tuple[str, ...]) -> None:
    labels = np.array([[0], [1], [1], [0]], np.uint8)
    arrays = dict(zip(keys, (IMAGES[:3], labels[:3], IMAGES[3:], labels[3:]), strict=True))
    found = read_npz(save(tmp_path, **arrays))
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert found.split is not None
    assert found.split.tolist() == [0, 0, 0, 1]
    arrays[keys[0]] = IMAGES[:2]
    with pytest.raises(DataError, match="do not fit labels"):
        read_npz(save(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": np.array([0, 1])}, "4 images but column 'label' has shape"),
        ({"label": np.array([0, 1, -2, 1])}, "label -2 is negative"),
        ({"label": np.array([0, 1, 3, 1])}, "label 3 but only 3 classes"),
        ({"label": np.array([0.0, 1, 1, 1])}, "float64, neither integers nor words"),
        ({"label": np.array([0, 1, 1, 2**64 - 1], np.uint64)}, "exceed 64 bits"),
        ({"label": np.array([{}] * 4, dtype=object)}, "Python objects"),
        ({"label": None}, "no label column"),
        ({"split": np.array([0, 1, 2, 0])}, "split values"),
        ({"split": np.array([0, 1, 0])}, "column 'split' has shape"),
        ({"split": np.array(["train", "odd", "test", "test"])}, "'odd' is none of"),
        ({"class_names": np.array([1, 2, 3])}, "not a row of words"),
        ({"offsets": np.array([0, 5, 3, 9, 9])}, "do not rise"),
        ({"offsets": np.array([0, 1, 2, 3, 2**40])}, "outside the blob"),
        ({"offsets": np.array([-1, 1, 2, 3, 4])}, "outside the blob"),
        ({"offsets": np.array([0.0, 1, 2, 3, 4])}, "not a row of integers"),
        ({"offsets": np.array([0])}, "no images in it"),
        ({"blob": np.zeros(9000, np.int32)}, "not a row of bytes"),
        ({"blob": None}, "no images"),
    ],
)
def test_bad_arrays(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    arrays = {**blob_arrays(), **change}
    path = save(tmp_path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=reason) as caught:
        open_dataset(str(path))
    assert "\n" not in str(caught.value)


def test_class_numbers_are_bounded(tmp_path: Path) -> None:
    path = save(tmp_path, images=IMAGES, label=np.array([0, 1, 2, 2**60]))
    with pytest.raises(DataError, match="only 100000 classes"):
        read_npz(path)


def test_unknown_columns_are_listed(tmp_path: Path) -> None:
    path = str(save(tmp_path, **blob_arrays()))
    with pytest.raises(DataError, match=r"no column 'x' \(columns: domain, label, split\)"):
        open_dataset(path, labels="x")
    with pytest.raises(DataError, match="no column 'x' to split by"):
        open_dataset(path, split="x")
    with pytest.raises(DataError, match="no share"):
        open_dataset(path, split="1.5")


def test_corrupt_image_is_named_when_loaded(tmp_path: Path) -> None:
    arrays = blob_arrays()
    arrays["blob"] = arrays["blob"].copy()
    start = arrays["offsets"][2]
    arrays["blob"][start : start + 8] = 0
    found = read_npz(save(tmp_path, **arrays))
    found.source.load(np.array([0, 1]), 6)
    with pytest.raises(DataError, match=r"set\.npz: image 2: not a readable image"):
        found.source.load(np.array([1, 2]), 6)


def test_sizes_are_checked_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, images=np.zeros((100, 64, 64), np.uint8), label=np.zeros(100, np.uint8))
    monkeypatch.setattr(tables, "MAX_BYTES", 10_000)
    with pytest.raises(DataError, match="limit is 10000"):
        read_npz(path)


def test_a_header_that_promises_more_than_the_file(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (2**40,)}
    )
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(10))
    with pytest.raises(DataError, match="header promises"):
        load_arrays(path)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_truncated_files(tmp_path: Path, keep: float) -> None:
    path = save(tmp_path, **blob_arrays())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match="damaged npz file"):
        open_dataset(str(path))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_files_are_read_or_data_errors(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stream = io.BytesIO()
    np.savez(stream, **blob_arrays())
    text = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    path.write_bytes(text)
    try:
        found = read_npz(path)
        found.source.load(np.arange(len(found)), 4)
    except DataError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "count", "column"), [("pacs64", 9991, "domain"), ("tin32_fed100", 55_000, "coarse")]
)
def test_shared_sets(name: str, count: int, column: str) -> None:
    path = SHARED / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"../shared/data/{name}.npz is not here")
    found = open_dataset(str(path))
    assert len(found) == count
    assert len(found.names[column]) == {"domain": 4, "coarse": 20}[column]
    assert found.source.load(np.array([0, count - 1]), 32).shape == (2, 32, 32, 3)
