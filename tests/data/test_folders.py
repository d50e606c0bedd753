from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silva.data.folders import is_level_path, read_folder
from silva.data.open import open_dataset
from silva.errors import DataError


def tree(root: Path, *paths: str) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / path)
    return root


def test_one_level_is_the_class(tmp_path: Path) -> None:
    found = open_dataset(str(tree(tmp_path, "cat/1.png", "cat/2.PNG", "bee/1.jpg")))
    assert found.class_names == ("bee", "cat")
    assert found.labels.tolist() == [0, 1, 1]
    assert found.split is None
    assert found.columns == {}
    assert found.source.load(np.array([1]), 4)[0, 0, 0].tolist() == [0, 0, 0]


def test_numbers_sort_by_value(tmp_path: Path) -> None:
    found = read_folder(tree(tmp_path, *(f"{n}/a.png" for n in range(12))))
    assert found.class_names == tuple(str(n) for n in range(12))


def test_split_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/1.png", "train/bee/1.png", "test/cat/2.png")
    found = open_dataset(str(root))
    assert found.split is not None
    assert found.class_names == ("bee", "cat")
    assert found.split.tolist() == [1, 0, 0]
    tree(tmp_path, "val/cat/3.png")
    with_validation = open_dataset(str(root))
    assert with_validation.split is not None
    assert with_validation.split.sum() == 1


def test_validation_tests_where_nothing_else_does(tmp_path: Path) -> None:
    found = open_dataset(str(tree(tmp_path, "train/cat/1.png", "val/cat/2.png")))
    assert found.split is not None
    assert found.split.tolist() == [0, 1]


def test_known_domains(tmp_path: Path) -> None:
    root = tree(tmp_path, "photo/dog/1.png", "art_painting/dog/1.png", "sketch/cat/1.png")
    found = open_dataset(str(root))
    assert found.class_names == ("cat", "dog")
    assert found.names["domain"] == ("art_painting", "photo", "sketch")
    assert found.columns["domain"].tolist() == [0, 1, 2]


def test_split_and_domain(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/Art/cup/1.png", "test/Real World/cup/1.png")
    found = open_dataset(str(root))
    assert found.names["domain"] == ("Art", "Real World")
    assert found.split is not None


def test_two_unknown_levels_need_a_word(tmp_path: Path) -> None:
    root = tree(tmp_path, "alice/cat/1.png", "bob/cat/1.png", "bob/dog/1.png")
    with pytest.raises(DataError, match=r"several ways.*--labels client/class"):
        open_dataset(str(root))
    by_client = open_dataset(str(root), labels="client/class")
    assert by_client.names["client"] == ("alice", "bob")
    assert by_client.class_names == ("cat", "dog")
    by_name = open_dataset(str(root), labels="class/-")
    assert by_name.class_names == ("alice", "bob")
    assert by_name.columns == {}


def test_a_share_tests(tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"cat/{n}.png" for n in range(10)))
    found = open_dataset(str(root), split="0.2")
    assert found.split is not None
    assert found.split.sum() == 2


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("client/class", "names 2 levels but images lie 1 deep"),
        ("domain", "does not name folder levels"),
        ("Class", "does not name folder levels"),
        ("../class", "does not name folder levels"),
    ],
)
def test_wrong_levels(tmp_path: Path, labels: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_dataset(str(tree(tmp_path, "cat/1.png")), labels=labels)


def test_levels_named_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not name"):
        open_dataset(str(tree(tmp_path, "a/b/1.png")), labels="class/class")
    assert is_level_path("split/class/-")


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ((), "no images in it"),
        (("1.png",), "directly"),
        (("cat/1.png", "2.png"), "different depths"),
        (("train/1.png", "test/1.png"), "several ways"),
        (("a/b/c/d/e/f/1.png",), "deeper than 5"),
    ],
)
def test_trees_without_classes(tmp_path: Path, paths: tuple[str, ...], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        open_dataset(str(tree(tmp_path, *paths)))
    assert "\n" not in str(caught.value)


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.png")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    with pytest.raises(DataError, match="deeper"):
        open_dataset(str(tmp_path))


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.png", ".hidden/2.png", "cat/.3.png")
    (tmp_path / "cat" / "notes.md").write_text("x")
    (tmp_path / "README.txt").write_text("x")
    assert len(open_dataset(str(tmp_path))) == 1


def test_a_corrupt_image_is_named_when_loaded(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.png")
    (tmp_path / "cat" / "0.jpg").write_bytes(b"no image")
    found = open_dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"cat/0\.jpg: not a readable image"):
        found.source.load(np.array([0, 1]), 4)
