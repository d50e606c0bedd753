"""Real processes and a real full disk: whatever is served afterwards is right."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_blocks import Peer, wait_until
from doomed_store import open_store, size_of

HERE = Path(__file__).parent


def run(folder: Path, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "doomed_store.py"), str(folder), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_all(folder: Path, peer: Peer, numbers: range) -> int:
    """Look everything up; what is there must be right. How many blocks are there."""
    with open_store(folder, peer) as store:
        hits = sum(len(peer.found(store, [number], size_of(number))) for number in numbers)
        stats = store.stats()
        assert (stats.disk_hits, stats.corrupt) == (hits, 0)
        assert on_disk(folder) <= stats.disk_bytes <= 8 << 20
    return hits


def test_a_store_that_is_killed_again_and_again(tmp_path: Path, peer: Peer) -> None:
    """SIGKILL comes at whatever the writer is doing; at first below capacity, later beyond it."""
    folder, flushed = tmp_path / "cache", -1
    for round_ in range(5):
        process = run(folder, flushed + 1)
        assert process.stdout
        for _ in range(2 + 3 * round_):
            flushed = int(process.stdout.readline())
        process.kill()
        process.communicate()
        hits = check_all(folder, peer, range(flushed + 200))
        assert hits >= (flushed + 1 if round_ == 0 else 20)
        assert not any((folder / "kv1" / "tmp").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, smaller than the tier was told."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_smaller_than_the_tier_holds_what_fits(small_disk: Path, peer: Peer) -> None:
    folder = small_disk / "cache"
    with open_store(folder, peer) as store:
        for number in range(120):
            peer.put(store, [number], size_of(number))
            assert store.flush(60)
        stats = store.stats()
        assert stats.disk_healthy and stats.disk_evictions and not stats.lost_unwritten
        assert stats.disk_bytes > 2 << 20
    assert check_all(folder, peer, range(120)) >= 20


def test_a_disk_that_somebody_else_fills_and_frees(
    small_disk: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silva.serving.cache import disk, writer

    monkeypatch.setattr(disk, "RETRY_S", 0.0)
    monkeypatch.setattr(writer, "LOOK_AGAIN_S", 0.01)
    other = small_disk / "other"

    def fill() -> None:
        with open(other, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    with open_store(small_disk / "cache", peer) as store:
        with pytest.raises(OSError, match="No space"):
            fill()
        peer.put(store, range(6), size_of(0))
        assert not store.flush(60)
        assert len(peer.found(store, range(6), size_of(0))) == 6
        other.unlink()
        wait_until(lambda: store.flush(1))
        assert store.stats().disk_healthy and store.stats().disk_blocks == 6


def test_a_limit_on_the_size_of_files_is_a_disk_that_refuses(tmp_path: Path, peer: Peer) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_store(tmp_path / "cache", peer) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            peer.put(store, [1], 50_000)
            refused = not store.flush(60)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert refused and store.stats().write_errors
        assert peer.found(store, [1], 50_000) == [1]
        assert on_disk(tmp_path) == 0
