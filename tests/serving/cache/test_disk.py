"""The disk tier: what survives, what is removed, and a disk that refuses."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_blocks import content, key

from silva.errors import ConfigError
from silva.serving.cache import block_file, disk
from silva.serving.cache.disk import LEAST_CHARGE_BYTES, DiskTier
from silva.serving.cache.names import BlockId, space_of
from silva.transfer import checksum

SPACE = space_of("tenant")
SIZE = 20_000
CHARGE = 20_480
"""SIZE and the header, in whole pages."""


def block(number: int, space: str = SPACE) -> BlockId:
    return BlockId(space, key(number))


def write(tier: DiskTier, *numbers: int, space: str = SPACE) -> list[str]:
    return [
        tier.write(block(n, space), memoryview(content(n, SIZE)), checksum(content(n, SIZE)))
        for n in numbers
    ]


def found(tier: DiskTier, *numbers: int, space: str = SPACE) -> list[int]:
    """Which blocks it gives; they must be right."""
    hits = []
    for number in numbers:
        opened = tier.open(block(number, space))
        if opened is not None:
            target = bytearray(opened.length)
            if tier.load(opened, memoryview(target)):
                assert target == content(number, SIZE)
                hits.append(number)
    return hits


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def path_of(folder: Path, number: int) -> Path:
    return folder / "kv1" / block(number).shard / block(number).file_name


class Tiers:
    """Tiers in one folder, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._open = folder, list[DiskTier]()

    def __call__(self, blocks: float = 10, **quotas: Any) -> DiskTier:
        self.close()
        self._open = [DiskTier(self.folder, int(blocks * CHARGE), **quotas)]
        return self._open[0]

    def close(self) -> None:
        for tier in self._open:
            tier.close()


@pytest.fixture
def tiers(tmp_path: Path) -> Iterator[Tiers]:
    tiers = Tiers(tmp_path / "cache")
    yield tiers
    tiers.close()


def test_blocks_survive_a_restart(tiers: Tiers) -> None:
    assert write(tiers(), 1, 2, 3) == ["written"] * 3
    again = tiers()
    assert len(again) == 3 and again.used_bytes == 3 * CHARGE
    assert found(again, 1, 2, 3, 4) == [1, 2, 3]


def test_the_least_recently_used_go_first_also_after_a_restart(tiers: Tiers) -> None:
    tier = tiers(3)
    write(tier, 1, 2, 3)
    for age, number in enumerate((3, 2, 1)):
        os.utime(path_of(tiers.folder, number), (1000 - age, 1000 - age))
    tier = tiers(3)
    assert found(tier, 1) == [1]
    write(tier, 4)
    assert found(tier, 1, 2, 3, 4) == [1, 3, 4]
    assert tier.counts.evictions == 1
    assert len(files(tiers.folder)) == 3


def test_a_touched_block_stays(tiers: Tiers) -> None:
    tier = tiers(2)
    write(tier, 1, 2)
    tier.touch(block(1))
    write(tier, 3)
    assert found(tier, 1, 2, 3) == [1, 3]


def test_a_smaller_tier_than_before_keeps_what_fits(tiers: Tiers) -> None:
    write(tiers(), *range(8))
    tier = tiers(3)
    assert len(tier) == 3 and len(files(tiers.folder)) == 3


def test_capacity_is_never_passed(tiers: Tiers) -> None:
    tier = tiers(4.5)
    for number in range(12):
        write(tier, number)
        on_disk = sum(path.stat().st_size for path in files(tiers.folder))
        assert on_disk <= tier.used_bytes <= 4.5 * CHARGE


def test_small_blocks_are_counted_with_more_so_that_files_are_bounded(tiers: Tiers) -> None:
    tier = tiers(blocks=3 * LEAST_CHARGE_BYTES / CHARGE)
    for number in range(9):
        tier.write(block(number), memoryview(b"x"), checksum(b"x"))
    assert len(files(tiers.folder)) == 3


def test_a_namespace_evicts_its_own_beyond_its_quota(tiers: Tiers) -> None:
    rich, poor = space_of("rich"), space_of("poor")
    tier = tiers(6, quota_bytes=4 * CHARGE, quotas={poor: CHARGE})
    write(tier, 1, 2, 3, space=rich)
    write(tier, 4, 5, space=poor)
    assert found(tier, 1, 2, 3, space=rich) == [1, 2, 3]
    assert found(tier, 4, 5, space=poor) == [5]
    assert write(tiers(0.5), 9) == ["refused"]


def test_no_hit_across_namespaces(tiers: Tiers) -> None:
    tier = tiers()
    write(tier, 1)
    other = block(1, space_of("other"))
    assert tier.open(other) is None
    # Not even when somebody renames the file.
    path_of(tiers.folder, 1).rename(path_of(tiers.folder, 1).with_name(other.file_name))
    again = tiers()
    assert other in again
    assert again.open(other) is None
    assert again.counts.corrupt == 1 and not files(tiers.folder)


@pytest.mark.parametrize("position", [0, 40, 87, 88, 5000, SIZE + 87])
def test_a_flipped_bit_is_a_miss_and_the_file_goes(tiers: Tiers, position: int) -> None:
    tier = tiers()
    write(tier, 1, 2)
    path = path_of(tiers.folder, 1)
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    assert found(tier, 1, 2) == [2]
    assert tier.counts.corrupt == 1
    assert files(tiers.folder) == [path_of(tiers.folder, 2)]
    # And it can be written again.
    assert write(tier, 1) == ["written"] and found(tier, 1) == [1]


def test_a_file_that_somebody_deleted_is_a_miss(tiers: Tiers) -> None:
    tier = tiers()
    write(tier, 1, 2)
    path_of(tiers.folder, 1).unlink()
    assert found(tier, 1, 2) == [2]
    assert len(tier) == 1 and tier.counts.corrupt == 0
    assert write(tier, 1) == ["written"] and found(tier, 1) == [1]


def test_a_folder_that_somebody_cleared_is_made_again(tiers: Tiers) -> None:
    import shutil

    tier = tiers()
    write(tier, 1)
    shutil.rmtree(tiers.folder)
    assert write(tier, 2) == ["written"] and found(tier, 1, 2) == [2]


def test_foreign_files_are_left_alone_and_unfinished_ones_removed(tiers: Tiers) -> None:
    write(tiers(), 1, 2)
    root = tiers.folder
    shard = path_of(root, 1).parent
    foreign = [root / "notes.txt", root / "kv1" / "notes.txt", shard / "notes.kv"]
    # Of another format version; in the wrong shard; a folder under a block's name.
    foreign += [root / "kv2" / "aa" / block(3).file_name, root / "kv1" / "tmp" / "notes"]
    foreign.append(root / "kv1" / ("00" if block(3).shard != "00" else "01") / block(3).file_name)
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    path_of(root, 4).mkdir(parents=True)
    unfinished = root / "kv1" / "tmp" / "new-0123"
    unfinished.write_bytes(b"half")
    os.truncate(path_of(root, 2), 10)
    tier = tiers()
    assert len(tier) == 1 and found(tier, 1, 2, 3, 4) == [1]
    assert files(root) == sorted([*foreign, path_of(root, 1)])


def test_two_processes_do_not_share_a_folder(tiers: Tiers, tmp_path: Path) -> None:
    tiers()
    with pytest.raises(ConfigError, match="another process"):
        DiskTier(tiers.folder, 1 << 20)


def test_a_folder_that_cannot_be_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"name another with serve\.kv\.cache_folder"):
        DiskTier(tmp_path / "file", 1 << 20)


def test_a_siblings_blocks_are_found_and_never_touched(tiers: Tiers, tmp_path: Path) -> None:
    sibling = DiskTier(tmp_path / "sibling", 1 << 20)
    write(sibling, 1, 2)
    tier = tiers()
    tier.see_siblings([tmp_path / "nobody", tmp_path / "sibling"])
    assert found(tier, 1, 2, 3) == [1, 2]
    assert len(tier) == 0
    path = path_of(tmp_path / "sibling", 1)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert found(tier, 1) == [] and path.exists()
    sibling.close()


class FullDisk:
    """Refuses writes with an error, after some bytes, until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.code, self.room = code, 0
        self._real = os.writev
        monkeypatch.setattr(block_file.os, "writev", self._writev)

    def _writev(self, descriptor: int, parts: list[memoryview]) -> int:
        if self.room > 0:
            self.room -= 1
            return self._real(descriptor, parts)
        if not os.fstat(descriptor).st_size:
            return self._real(descriptor, [parts[0][:70]])
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_refuses_is_counted_logged_once_and_tried_again(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    tier = tiers()
    full = FullDisk(monkeypatch, code)
    with caplog.at_level(logging.WARNING):
        assert write(tier, 1, 2) == ["failed", "failed"]
    assert tier.counts.write_errors == 2 and not tier.healthy and not tier.may_write
    assert len(caplog.records) == 1 and os.strerror(code) in caplog.text
    assert files(tiers.folder) == [] and len(tier) == 0
    monkeypatch.setattr(disk, "RETRY_S", 0.0)
    write(tier, 1)
    assert tier.may_write
    full.room = 100
    assert write(tier, 1, 2) == ["written", "written"] and tier.healthy
    assert found(tier, 1, 2) == [1, 2]
    assert "works again" in caplog.text


def test_what_is_on_a_full_disk_can_still_be_read_but_makes_room(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = tiers()
    write(tier, 1, 2, 3, 4, 5)
    full = FullDisk(monkeypatch, errno.ENOSPC)
    assert write(tier, 6) == ["failed"]
    # Room for one block and some slack was made; it helped nothing, and the others stay.
    assert found(tier, 1, 2, 3, 4, 5) == [3, 4, 5]
    full.room = -1
    real = full._real
    monkeypatch.setattr(block_file.os, "writev", full._writev)
    unlinked: list[Path] = []
    unlink = Path.unlink

    def freeing(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.suffix == ".kv":
            unlinked.append(path)
            monkeypatch.setattr(block_file.os, "writev", real)

    monkeypatch.setattr(Path, "unlink", freeing)
    assert write(tier, 7) == ["written"]
    assert unlinked == [path_of(tiers.folder, n) for n in (3, 4)]
    assert found(tier, 5, 7) == [5, 7]


def test_a_disk_that_is_full_from_the_start_is_taken_over_later(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tiers(), 1)
    real = Path.mkdir

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", refuse)
    tier = tiers()
    assert not tier.healthy and found(tier, 1) == []
    assert write(tier, 2) == ["failed"]
    monkeypatch.setattr(Path, "mkdir", real)
    assert write(tier, 2) == ["written"]
    assert found(tier, 1, 2) == [1, 2]


def test_an_evicted_file_that_cannot_be_deleted_is_no_hit(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = tiers(1)
    write(tier, 1)

    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".kv":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    write(tier, 2)
    monkeypatch.undo()
    assert found(tier, 1, 2) == [2]
    assert len(tiers(1)) == 1 and len(files(tiers.folder)) == 1
