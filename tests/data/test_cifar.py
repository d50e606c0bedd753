from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silva.data import cifar
from silva.data.cifar import read_cifar
from silva.data.open import open_dataset
from silva.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 3072), dtype=np.uint8)
META = {"fine_label_names": ["apple", "bee", "cat"], "coarse_label_names": ["plants", "animals"]}


def table(rows: slice) -> dict[str, Any]:
    fine = [0, 1, 2, 2, 1, 0][rows]
    return {
        "data": IMAGES[rows],
        "fine_labels": fine,
        "coarse_labels": [min(label, 1) for label in fine],
        "filenames": ["x.png"] * len(fine),
    }


def members() -> dict[str, bytes]:
    tables = {"train": table(slice(0, 4)), "test": table(slice(4, 6)), "meta": META}
    return {f"cifar-100-python/{name}": pickle.dumps(t, 2) for name, t in tables.items()}


def tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    for name, data in members().items():
        (folder / Path(name).name).write_bytes(data)
    return folder


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "folder", "parent"])
def test_cifar_100(tmp_path: Path, kind: str) -> None:
    if kind in ("folder", "parent"):
        path = write_folder(tmp_path / "cifar-100-python")
        path = tmp_path if kind == "parent" else path
    else:
        path = tar(tmp_path / "c", members(), "w:gz" if kind == "tar.gz" else "w")
    found = open_dataset(str(path))
    assert found.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert found.class_names == ("apple", "bee", "cat")
    assert found.split is not None
    assert found.split.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.columns["coarse"].tolist() == [0, 1, 1, 1, 1, 0]
    assert found.names["coarse"] == ("plants", "animals")
    pixels = found.source.load(np.array([5]), 32)[0]
    assert np.array_equal(pixels, IMAGES[5].reshape(3, 32, 32).transpose(1, 2, 0))


def test_superclasses_as_labels(tmp_path: Path) -> None:
    found = open_dataset(str(tar(tmp_path / "c", members())), labels="coarse")
    assert found.class_names == ("plants", "animals")
    assert found.names["label"] == ("apple", "bee", "cat")


def test_cifar_10(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for n in range(5):
        batch = {b"data": IMAGES[n : n + 1], b"labels": [n % 2]}
        (folder / f"data_batch_{n + 1}").write_bytes(pickle.dumps(batch))
    batch = {b"data": IMAGES[4:6], b"labels": [1, 0]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"plane", b"car"]}))
    found = read_cifar(folder)
    assert found.class_names == ("plane", "car")
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert found.title == "CIFAR-10"
    for missing in ("test_batch", "data_batch_5"):
        (folder / missing).unlink()
        with pytest.raises(DataError, match=f"no '{missing}'"):
            read_cifar(folder)


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"train": pickle.dumps(Hostile())}, r"train: pickle wants to run \w+\.system"),
        ({"train": b"\x80\x02}"}, "damaged pickle"),
        ({"train": pickle.dumps({**table(slice(0, 4)), "data": [1]})}, "no uint8 array"),
        ({"train": pickle.dumps({**table(slice(0, 4)), "fine_labels": [0, 1]})}, "6 images but"),
        ({"train": pickle.dumps({**table(slice(0, 4)), "fine_labels": [0.5] * 4})}, "integers"),
        ({"train": pickle.dumps({**table(slice(0, 4)), "fine_labels": [-1] * 4})}, "negative"),
        ({"train": pickle.dumps({**table(slice(0, 4)), "fine_labels": [9] * 4})}, "only 3 classes"),
        ({"train": pickle.dumps({**table(slice(0, 4)), "data": IMAGES[:, :100]})}, "100 bytes"),
        ({"test": None}, "no 'test'"),
        ({"test": None, "train": None}, "no CIFAR batches"),
    ],
)
def test_bad_batches(tmp_path: Path, change: dict[str, bytes | None], reason: str) -> None:
    files = members()
    for name, data in change.items():
        files.pop(f"cifar-100-python/{name}")
        if data is not None:
            files[f"cifar-100-python/{name}"] = data
    with pytest.raises(DataError, match=reason) as caught:
        open_dataset(str(tar(tmp_path / "c.tar.gz", files)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9, 0.999])
def test_truncated_archives(tmp_path: Path, keep: float) -> None:
    data = tar(tmp_path / "c", members()).read_bytes()
    (tmp_path / "c").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError) as caught:
        open_dataset(str(tmp_path / "c"))
    assert "\n" not in str(caught.value)


def test_members_are_never_written(tmp_path: Path) -> None:
    files = {"../../escape": b"x", "/tmp/absolute": b"x", **members()}
    path = tar(tmp_path / "c", files)
    open_dataset(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_archive_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "MAX_ARCHIVE_BYTES", 100_000)
    path = tar(tmp_path / "c", {"filler": bytes(300_000), **members()})
    with pytest.raises(DataError, match="decompression bomb"):
        read_cifar(path)
    monkeypatch.setattr(cifar, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="limit is 1000"):
        read_cifar(tar(tmp_path / "d", members()))


def test_gzip_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(DataError, match="unknown format"):
        open_dataset(str(tmp_path / "c.gz"))
