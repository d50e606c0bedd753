"""Texts that a client sends are cut as those of its folder are."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from text_cases import Letters, tree

from silva.data.sent_texts import MAX_WINDOWS, SentTexts, training_texts
from silva.data.text import read_texts
from silva.errors import DataError


def test_what_is_sent_is_what_lies_there(tmp_path: Path) -> None:
    root = tree(tmp_path, {"b.txt": "fghij", "a.txt": "\ufeffabcde", "c.md": "äk", "d.png": "z"})
    texts = training_texts(root)
    assert texts == ("abcde", "fghij", "äk")
    there, here = SentTexts(texts).dataset(Letters(), 3), read_texts(root, Letters(), 3)
    np.testing.assert_array_equal(there.source.tokens, here.source.tokens)
    np.testing.assert_array_equal(there.source.bytes, here.source.bytes)
    assert there.split is None and there.class_names == here.class_names


def test_the_part_for_training_alone_is_sent(tmp_path: Path) -> None:
    texts = {"train/x.txt": "abc", "test/x.txt": "def", "train/new/y.txt": "ghi"}
    root = tree(tmp_path / "parts", {name: texts[name] for name in ("train/x.txt", "test/x.txt")})
    assert training_texts(root) == ("abc",)
    root = tree(tmp_path / "deep", {"train/new/y.txt": "ghi", "test/new/y.txt": "jkl"})
    assert training_texts(root) == ("ghi",)
    assert training_texts(tree(tmp_path / "one", {"new/y.txt": "mno"})) == ("mno",)
    assert training_texts(tmp_path / "one" / "new" / "y.txt") == ("mno",)


@pytest.mark.parametrize(
    ("texts", "labels", "why"),
    [
        ({"a/x.txt": "abc", "b/x.txt": "abc"}, "", "texts in 2 folders"),
        ({"train/a/x.txt": "abc", "train/b/x.txt": "abc"}, "", "texts in 2 folders"),
        ({"x.png": "abc"}, "", "no texts"),
        ({"a/x.txt": "abc"}, "split/client", "names 2 levels"),
    ],
)
def test_other_trees_are_refused(
    tmp_path: Path, texts: dict[str, str], labels: str, why: str
) -> None:
    with pytest.raises(DataError, match=why):
        training_texts(tree(tmp_path, texts), labels)


def test_too_little_and_too_much_are_refused() -> None:
    for texts, why in (
        (("ab",), "less than a window"),
        (("abc", "d\ae"), "examples.1: the text rings"),
        (("a" * (3 * MAX_WINDOWS + 4),), f"a server takes {MAX_WINDOWS}"),
    ):
        with pytest.raises(DataError, match=why):
            SentTexts(texts).dataset(Letters(), 3)
    assert len(SentTexts(("a" * (3 * MAX_WINDOWS + 3),)).dataset(Letters(), 3)) == MAX_WINDOWS
