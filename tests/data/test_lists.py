from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from silva.data.lists import parse_list
from silva.data.open import open_dataset
from silva.errors import DataError


def images(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / path)


def test_domainnet(tmp_path: Path) -> None:
    images(tmp_path, "clipart/ant/1.png", "clipart/bee/a b.png", "real/ant/1.png")
    (tmp_path / "clipart_train.txt").write_text("clipart/ant/1.png 0\nclipart/bee/a b.png 1\n")
    (tmp_path / "real_test.txt").write_text("\nreal/ant/1.png 0\r\n")
    (tmp_path / "README.txt").write_text("not a list")
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("ant", "bee")
    assert found.labels.tolist() == [0, 1, 0]
    assert found.names["domain"] == ("clipart", "real")
    assert found.split is not None
    assert found.split.tolist() == [0, 0, 1]
    assert found.source.load(np.array([1]), 4).shape == (1, 4, 4, 3)


def test_pacs_labels_from_one_and_overlapping_lists(tmp_path: Path) -> None:
    paths = ["art_painting/dog/1.png", "art_painting/cat/1.png"]
    images(tmp_path / "kfold", *paths)
    (tmp_path / "art_painting_train_kfold.txt").write_text(f"{paths[0]} 1\n")
    (tmp_path / "art_painting_crossval_kfold.txt").write_text(f"{paths[1]} 2\n")
    (tmp_path / "art_painting_test_kfold.txt").write_text(f"{paths[0]} 1\n{paths[1]} 2\n")
    found = open_dataset(str(tmp_path))
    assert len(found) == 2
    assert found.class_names == ("dog", "cat")
    assert found.labels.tolist() == [0, 1]
    assert found.split is not None
    assert found.split.tolist() == [0, 1]
    assert found.names["domain"] == ("art_painting",)
    found.source.load(np.array([0, 1]), 4)


def test_pacs_as_it_is_distributed(tmp_path: Path) -> None:
    domains, classes = ("art_painting", "photo"), ("dog", "elephant")
    for domain in domains:
        paths = [f"{domain}/{name}/pic_{n}.jpg" for name in classes for n in range(3)]
        images(tmp_path / "pacs_data", *paths)
        lines = [f"{path} {1 + classes.index(path.split('/')[1])}\n" for path in paths]
        sides = {"train": lines[::2], "crossval": lines[1::2], "test": lines}
        for side, part in sides.items():
            (tmp_path / "pacs_label").mkdir(exist_ok=True)
            (tmp_path / "pacs_label" / f"{domain}_{side}_kfold.txt").write_text("".join(part))
    found = open_dataset(str(tmp_path))
    assert len(found) == 12 and found.class_names == classes
    assert found.names["domain"] == domains and found.split is not None
    assert np.bincount(found.split).tolist() == [6, 6]
    assert found.source.load(np.arange(12), 4).shape == (12, 4, 4, 3)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "photo_train.txt").write_text("photo/dog/pic_0.jpg 1\n")
    with pytest.raises(DataError, match=r"several folders \(again, pacs_label\)"):
        open_dataset(str(tmp_path))


def test_lists_without_a_domain_in_another_folder_are_left_alone(tmp_path: Path) -> None:
    images(tmp_path, "ant/1.png", "bee/1.png")
    (tmp_path / "bee" / "train.txt").write_text("1\n2\n")
    assert open_dataset(str(tmp_path)).class_names == ("ant", "bee")


def test_folders_on_demand(tmp_path: Path) -> None:
    images(tmp_path, "clipart/ant/1.png", "clipart/ant/2.png")
    (tmp_path / "clipart_train.txt").write_text("clipart/ant/1.png 0\n")
    assert len(open_dataset(str(tmp_path))) == 1
    assert len(open_dataset(str(tmp_path), labels="domain/class")) == 2


def test_labels_that_disagree_with_folders_keep_their_numbers(tmp_path: Path) -> None:
    images(tmp_path, "all/1.png", "all/2.png")
    (tmp_path / "train.txt").write_text("all/1.png 3\nall/2.png 7\n")
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("3", "7")
    assert found.columns == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/etc/passwd 0", "leaves the folder"),
        ("../secret.jpg 0", "leaves the folder"),
        ("a/../../b.jpg 0", "leaves the folder"),
        ("..\\secret.jpg 0", "leaves the folder"),
        ("C:/secret.jpg 0", "leaves the folder"),
        ("a/b.jpg", "no line"),
        ("a/b.jpg -1", "no integer from 0"),
        ("a/b.jpg 1.5", "no integer from 0"),
        ("a/b.jpg cat", "no integer from 0"),
        ("a/b.jpg 99999999999", "no integer from 0"),
        ("a" * 5000 + " 1", "no line"),
    ],
)
def test_bad_lines_are_named(line: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        parse_list(f"ok/1.jpg 0\n{line}\n", "x_train.txt")
    assert str(caught.value).startswith("x_train.txt: line 2: ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "no images"), (b"\xff\xfe 1\n", "UTF-8"), (b"gone/1.png 0\n", "is not there")],
)
def test_bad_files(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "photo_train.txt").write_bytes(data)
    with pytest.raises(DataError, match=reason):
        open_dataset(str(tmp_path))


@given(st.text(max_size=80) | st.from_regex(r"(\.{0,2}/?[ab]?){1,5} [0-9]{1,3}", fullmatch=True))
def test_any_text_stays_inside_or_is_a_data_error(text: str) -> None:
    root = Path("/data/set")
    try:
        found = parse_list(text, "list")
    except DataError as error:
        assert "\n" not in str(error)
        return
    for path, label in found:
        assert label >= 0
        assert ".." not in (root / path).parts
        assert (root / path).is_relative_to(root)
