from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from silva.data.histogram import class_counts
from silva.data.nouns import ImageDataset, Partition
from silva.data.partition import load_partition, make_partition, save_partition
from silva.errors import PartitionError


class Nothing:
    def __len__(self) -> int:
        return 80

    def load(self, rows: Any, side: int) -> Any:
        return np.zeros((len(rows), side, side, 3), dtype=np.uint8)


LABELS = np.arange(80) % 4
SPLIT = (np.arange(80) % 16 >= 12).astype(np.uint8)
DATASET = ImageDataset(Nothing(), LABELS, ("cat", "d$g", "eel", "fox"), SPLIT)


@pytest.fixture(scope="module")
def partition() -> Partition:
    numbers = {"clients": 6, "samples_per_client": 8, "test_per_client": 4}
    return make_partition(DATASET, "planted(2)", unseen=0.3, seed=0, **numbers)


@pytest.fixture(scope="module")
def original(partition: Partition, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "run" / "data"
    save_partition(partition, DATASET, folder)
    return folder


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "data"))


def test_what_is_saved_is_loaded(partition: Partition, saved: Path) -> None:
    loaded = load_partition(saved, DATASET)
    assert (loaded.spec, loaded.unseen) == (partition.spec, partition.unseen)
    for one, other in zip(partition.clients, loaded.clients, strict=True):
        assert (one.name, one.group, one.style) == (other.name, other.group, other.style)
        np.testing.assert_array_equal(one.train, other.train)
        np.testing.assert_array_equal(one.test, other.test)
    assert sorted(file.name for file in saved.iterdir()) == ["histogram.png", "partition.json"]


def test_equal_partitions_give_equal_bytes(partition: Partition, saved: Path) -> None:
    before = (saved / "partition.json").read_bytes()
    save_partition(partition, DATASET, saved)
    assert (saved / "partition.json").read_bytes() == before


def test_the_histogram_counts_train_images_and_is_a_picture(
    partition: Partition, saved: Path
) -> None:
    counts = class_counts(partition, DATASET)
    assert counts.shape == (6, 4) and (counts.sum(axis=1) == 8).all()
    with Image.open(saved / "histogram.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 200


def test_a_histogram_of_many_clients_stays_a_reasonable_picture(tmp_path: Path) -> None:
    labels = np.arange(4000) % 200
    classes = tuple(f"class {i}" for i in range(200))
    many = replace(
        DATASET, labels=labels, class_names=classes, split=(np.arange(4000) // 2000).astype("u1")
    )
    numbers = {"clients": 300, "samples_per_client": 3, "test_per_client": 3, "seed": 0}
    save_partition(make_partition(many, "gl_dir(1.0)", unseen=0.2, **numbers), many, tmp_path)
    with Image.open(tmp_path / "histogram.png") as picture:
        assert max(picture.size) < 4000


def change(saved: Path, edit: Any) -> None:
    plain = json.loads((saved / "partition.json").read_text())
    edit(plain)
    (saved / "partition.json").write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (lambda p: p.update(format=2), "format is not 1"),
        (lambda p: p.update(images=0), "images is not in"),
        (lambda p: p.update(images=True), "images is not in"),
        (lambda p: p.update(classes=[1]), "classes is not"),
        (lambda p: p.update(spec=None), "spec is not"),
        (lambda p: p.update(clients=[]), "clients is not a list"),
        (lambda p: p.update(clients=[3]), "a client is no object"),
        (lambda p: p.update(unseen=["nobody"]), "unknown client"),
        (lambda p: p["clients"].append(p["clients"][0]), "a client comes twice"),
        (lambda p: p["clients"][0].update(name="../x"), "is not allowed"),
        (lambda p: p["clients"][0].update(style="sepia"), "no style is called"),
        (lambda p: p["clients"][0].update(group=-2), "group of c-00"),
        (lambda p: p["clients"][0].update(train=[]), "train of c-00 is not a list of rows"),
        (lambda p: p["clients"][0].update(train=[80]), "train of c-00 has a bad row"),
        (lambda p: p["clients"][0].update(train=[-1]), "train of c-00 has a bad row"),
        (lambda p: p["clients"][0].update(train=[1.5]), "train of c-00 has a bad row"),
        (lambda p: p["clients"][0].update(train=[1, 1]), "train of c-00 has a row twice"),
        (lambda p: p["clients"][0].update(train=p["clients"][1]["train"]), "two owners"),
        (lambda p: p["clients"][0].update(test=p["clients"][1]["train"]), "train row as well"),
    ],
)
def test_a_damaged_partition_is_refused(saved: Path, edit: Any, cause: str) -> None:
    change(saved, edit)
    with pytest.raises(PartitionError) as caught:
        load_partition(saved)
    line = str(caught.value)
    assert cause in line and "partition.json" in line and ";" in line


def test_a_partition_of_another_data_set_is_refused(saved: Path) -> None:
    other = replace(DATASET, class_names=("cat", "dog", "eel", "fox"))
    with pytest.raises(PartitionError, match="made for another data set"):
        load_partition(saved, other)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match="is missing"):
        load_partition(tmp_path)
    for content in ("", "[" * 100_000, "[]", "\udcff", '{"format":1}'):
        (tmp_path / "partition.json").write_text(content, errors="surrogateescape")
        with pytest.raises(PartitionError):
            load_partition(tmp_path)


def test_a_folder_that_is_a_file_is_refused(partition: Partition, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(PartitionError, match="cannot be made"):
        save_partition(partition, DATASET, tmp_path / "data")


def test_a_failed_save_leaves_the_old_files(
    partition: Partition, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = (saved / "partition.json").read_bytes()
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(PartitionError, match="No space left"):
        save_partition(replace(partition, unseen=frozenset()), DATASET, saved)
    assert (saved / "partition.json").read_bytes() == before
    assert len(list(saved.iterdir())) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(["format", "spec", "images", "classes", "clients", "unseen"]), value=JSON
)
def test_any_value_is_a_partition_or_a_partition_error(
    tmp_path: Path, key: str, value: Any
) -> None:
    client = {"name": "a", "group": -1, "style": "", "train": [0], "test": [1]}
    plain = {"format": 1, "spec": "x", "images": 2, "classes": [], "clients": [client]}
    content = json.dumps({**plain, "unseen": [], key: value})
    (tmp_path / "partition.json").write_text(content)
    with contextlib.suppress(PartitionError):
        load_partition(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(["name", "group", "style", "train", "test"]), value=JSON)
def test_any_client_is_a_client_or_a_partition_error(tmp_path: Path, key: str, value: Any) -> None:
    client = {"name": "a", "group": -1, "style": "", "train": [0], "test": [1], key: value}
    plain = {"format": 1, "spec": "x", "images": 2, "classes": [], "clients": [client]}
    (tmp_path / "partition.json").write_text(json.dumps({**plain, "unseen": []}))
    with contextlib.suppress(PartitionError):
        load_partition(tmp_path)
