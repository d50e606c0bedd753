"""Where the disk tier lies: by port, and for port 0 where no other server has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from silva.serving.config import KvConfig
from silva.serving.kv_folder import with_folder


@pytest.fixture
def kv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SILVA_CACHE", str(tmp_path))
    return tmp_path / "kv"


def test_a_port_has_its_folder_and_a_named_one_is_taken_as_it_is(kv: Path) -> None:
    with with_folder(KvConfig(), 8000) as first, with_folder(KvConfig(), 8000) as again:
        assert first.cache_folder == again.cache_folder == str(kv / "8000")
    with with_folder(KvConfig(cache_folder="here"), 0) as named:
        assert named.cache_folder == "here"
    with with_folder(KvConfig(cache_disk_bytes=0), 0) as none:
        assert none.cache_folder == ""
    assert not kv.exists()


def test_servers_on_any_port_never_share_one_and_a_later_one_finds_it_again(kv: Path) -> None:
    with with_folder(KvConfig(), 0) as first:
        with with_folder(KvConfig(), 0) as second, with_folder(KvConfig(), 0) as third:
            folders = [Path(each.cache_folder) for each in (first, second, third)]
        with with_folder(KvConfig(), 0) as again:
            assert again == second
    assert folders == [kv / "0", kv / "0-2", kv / "0-3"]
    with with_folder(KvConfig(), 0) as later:
        assert later == first
    assert not kv.exists()
