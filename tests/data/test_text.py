"""Texts in folders become windows of tokens, whose every token but the first is predicted once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from text_cases import Letters, tree

from silva.data.nouns import TEST, TRAIN
from silva.data.partition import make_partition
from silva.data.text import TextDataset, read_texts
from silva.errors import DataError, PartitionError


def words(dataset: TextDataset, rows: np.ndarray) -> list[str]:
    return ["".join(chr(c) if c else "|" for c in row) for row in dataset.source.tokens[rows]]


def test_windows_follow_each_other_and_share_one_token(tmp_path: Path) -> None:
    root = tree(tmp_path, {"ann/b.txt": "fghij", "ann/a.txt": "abcde", "bob/c.md": "klmnopq"})
    found = read_texts(root, Letters(), 3)
    assert words(found, np.arange(len(found))) == ["abcd", "de|f", "fghi", "klmn", "nopq"]
    assert found.source.bytes.tolist() == [3, 2, 3, 3, 3]
    assert found.names["client"] == ("ann", "bob")
    assert found.columns["client"].tolist() == [0, 0, 0, 1, 1]
    assert found.split is None and found.unit == "windows"


def test_bytes_are_those_of_the_text(tmp_path: Path) -> None:
    found = read_texts(tree(tmp_path, {"a/x.txt": "xäöü→"}), Letters(), 4)
    assert found.source.bytes.tolist() == [3 * 2 + 3]


def test_a_share_is_drawn_in_every_folder_alike_and_the_same_every_time(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a/x.txt": "abcdefghijk" * 2, "b/x.txt": "abcdefghijk" * 20})
    found, again = (read_texts(root, Letters(), 2, split="0.2") for _ in range(2))
    assert found.split is not None and found.split.tolist() == again.split.tolist()  # type: ignore[union-attr]
    for client in (0, 1):
        mine = found.split[found.columns["client"] == client]
        assert (mine == TEST).mean() == pytest.approx(0.2, abs=0.03)
    usual = read_texts(root, Letters(), 2, share=0.2)
    assert usual.split is not None and usual.split.tolist() == found.split.tolist()


def test_a_level_of_train_and_test_is_the_split(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {f"{s}/{c}/x.txt": f"{c}{c.upper()}{s[:2]}" for s in ("train", "test") for c in "ab"},
    )
    found = read_texts(root, Letters(), 3, share=0.5)
    assert found.split is not None
    assert words(found, np.flatnonzero(found.split == TRAIN)) == ["aAtr", "bBtr"]
    assert words(found, np.flatnonzero(found.split == TEST)) == ["aAte", "bBte"]


def test_texts_of_a_client_are_its_own_and_domains_are_dealt_out(tmp_path: Path) -> None:
    pairs = [(d, c) for d in ("de", "fr") for c in ("ann", "bob")]
    root = tree(tmp_path, {f"{d}/{c}-{d}/x.txt": (d + c) * 30 for d, c in pairs})
    found = read_texts(root, Letters(), 4, labels="domain/client", share=0.25)
    common = {"unseen": 0.0, "samples_per_client": 0, "test_per_client": 5, "seed": 0}
    own = make_partition(found, "by_folder", clients=1, **common)  # type: ignore[arg-type]
    assert [c.name for c in own.clients] == ["ann-de", "ann-fr", "bob-de", "bob-fr"]
    for client in own.clients:
        assert client.name[:3] in "".join(words(found, client.train))
    dealt = make_partition(found, "domain_dir(1)", clients=4, **common)  # type: ignore[arg-type]
    for client in dealt.clients:
        assert len(set(found.columns["domain"][client.train])) == 1
    assert {client.group for client in dealt.clients} == {0, 1}


def test_styles_are_for_images(tmp_path: Path) -> None:
    found = read_texts(tree(tmp_path, {"a/x.txt": "abcdefgh"}), Letters(), 2, share=0.5)
    with pytest.raises(PartitionError, match="windows"):
        make_partition(
            found,
            "planted(2)",
            clients=2,
            unseen=0.0,
            samples_per_client=1,
            test_per_client=1,
            seed=0,
        )


def test_one_file_is_a_data_set(tmp_path: Path) -> None:
    tree(tmp_path, {"own.txt": "abcdefg", "other.txt": "zzz"})
    found = read_texts(tmp_path / "own.txt", Letters(), 3)
    assert words(found, np.arange(len(found))) == ["abcd", "defg"] and not found.columns


def test_the_digest_tells_texts_apart(tmp_path: Path) -> None:
    one = read_texts(tree(tmp_path / "a", {"c/x.txt": "abcd"}), Letters(), 3).digest()
    other = read_texts(tree(tmp_path / "b", {"c/x.txt": "abce"}), Letters(), 3).digest()
    assert one != other


@pytest.mark.parametrize(
    ("texts", "flags", "why"),
    [
        ({"a/x.png": "abc"}, {}, "no texts"),
        ({"a/x.txt": "abc"}, {}, "less than a window"),
        ({"a/x.txt": "abcdef", "y.txt": "abcdef"}, {}, "different depths"),
        ({"a/b/x.txt": "abcdef"}, {}, "several ways"),
        ({"a/x.txt": "abcdef"}, {"labels": "client/part"}, "2 levels"),
        ({"a/x.txt": "abcdef"}, {"labels": "Client"}, "does not name"),
        ({"a/x.txt": "abcdef"}, {"split": "half"}, "no column"),
        ({"a/x.txt": "abcdef"}, {"split": "1.5"}, "share"),
        ({"a/x.txt": "abc\adef"}, {}, "rings"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, texts: dict[str, str], flags: dict[str, str], why: str
) -> None:
    with pytest.raises(DataError, match=why):
        read_texts(tree(tmp_path, texts), Letters(), 3, **flags)  # type: ignore[arg-type]


def test_a_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_bytes(b"abc\xff\xfe")
    with pytest.raises(DataError, match=r"x\.txt: is not UTF-8 \(byte 3\)"):
        read_texts(tmp_path, Letters(), 2)
