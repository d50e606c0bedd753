from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from silva.data.open import open_dataset
from silva.errors import DataError, MissingExtraError


def offer(monkeypatch: pytest.MonkeyPatch, download: Any) -> None:
    library = SimpleNamespace(snapshot_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)


def test_parquet_files_of_the_set_or_its_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repo: str, *, revision: str | None, **options: Any) -> str:
        asked.append((repo, revision, options["repo_type"], options["allow_patterns"]))
        folder = tmp_path / (revision or "main").replace("/", "-")
        folder.mkdir()
        if revision:
            pq.write_table(pa.table({"image": [b"x"], "label": [0]}), folder / "train.parquet")
        return str(folder)

    offer(monkeypatch, download)
    found = open_dataset("hub:owner/name")
    assert len(found) == 1 and found.origin == ""
    assert asked == [
        ("owner/name", None, "dataset", ["*.parquet"]),
        ("owner/name", "refs/convert/parquet", "dataset", ["*.parquet"]),
    ]


@pytest.mark.parametrize("asked", ["hub:owner/name", "hub:owner/name@main"])
def test_the_commit_that_was_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    (tmp_path / commit).mkdir()
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), tmp_path / commit / "train.parquet")
    revisions = []

    def download(repo: str, *, revision: str | None, **options: Any) -> str:
        revisions.append(revision)
        return str(tmp_path / commit)

    offer(monkeypatch, download)
    found = open_dataset(asked)
    assert found.origin == f"hub:owner/name@{commit}"
    assert open_dataset(found.origin).origin == found.origin and revisions[-1] == commit


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, **options: Any) -> str:
        raise ConnectionError("no route\nto host")

    offer(monkeypatch, download)
    with pytest.raises(DataError, match=r"hub:owner/name: cannot be fetched \(no route to host\)"):
        open_dataset("hub:owner/name")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"silva\[hub\]"):
        open_dataset("hub:owner/name")


@pytest.mark.parametrize("name", ["hub:", "hub:../x", "hub:a/b/c", "hub:a/..", "hub:-x"])
def test_names(name: str) -> None:
    with pytest.raises(DataError, match="no name on the hub"):
        open_dataset(name)
