"""Files that a command is to write, looked at before it begins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from silva.cli import writable
from silva.cli.writable import check_writable
from silva.errors import ConfigError


def refused(path: Path) -> bool:
    try:
        check_writable(path)
    except ConfigError as error:
        assert str(error).startswith(f"{path}: cannot be written")
        return True
    return False


def test_a_new_file_in_a_folder_and_one_that_is_there_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "old.html").write_text("")
    (tmp_path / "later.html").symlink_to(tmp_path / "not yet.html")
    for name in ("new.html", "old.html", "later.html"):
        assert not refused(tmp_path / name)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["later.html", "old.html"]


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout"])
def test_what_is_no_ordinary_file_is_written_to_as_it_is(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not write into /dev may write to what stands there."""
    monkeypatch.setattr(writable.os, "access", lambda asked, mode: str(asked) == path)
    assert not refused(Path(path))


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refused(tmp_path)
    assert refused(tmp_path / "nowhere" / "plan.html")
    assert refused(tmp_path / "file" / "plan.html")
    assert refused(tmp_path / ("long" * 100))


@pytest.mark.parametrize(("there", "protected"), [(True, "old.html"), (False, ".")])
def test_what_is_protected_is_refused(
    there: bool, protected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for of the file itself where it is there: an administrator's tests may write anywhere."""
    if there:
        (tmp_path / "old.html").write_text("")
    place = tmp_path / protected

    def access(path: Path, mode: int) -> bool:
        assert mode & os.W_OK
        return path != place

    monkeypatch.setattr(writable.os, "access", access)
    assert refused(tmp_path / "old.html")


def test_a_folder_that_cannot_be_looked_into_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path, **how: bool) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", closed)
    assert refused(tmp_path / "plan.html")
