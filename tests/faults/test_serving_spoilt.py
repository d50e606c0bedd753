"""Transfers are corrupted, disks are full, peers are slow: the answers are those of a calm server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving_world import (
    all_ready,
    answer,
    answers,
    peer_of,
    prompts,
    request_of,
    run,
    save_model,
    server,
    settings,
    settled,
)

from silva.serving.front import Front
from silva.serving.wire.messages import Prefilled, Rejected
from silva.transfer import Piece
from silva.transfer.shm import HEADER_BYTES

PROMPTS = [prompt for prompt in prompts(20) if len(prompt) % 16][:12]
"""Their last blocks are not full: a decode peer has to read those, whatever it had before."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


async def counted(front: Front, name: str, least: int) -> None:
    """Wait until a counter of the status has come so far."""
    while front.status().counters[name] < least:
        await asyncio.sleep(0.05)


# Corrupted transfers ------------------------------------------------------------------------


class Spoiler:
    """Stands before the hub: the first hand-over of each request is not what it was promised to be."""

    def __init__(self, front: Front) -> None:
        self.spoilt: set[str] = set()
        self._deliver = front.hub.receive
        front.hub.receive = self._receive  # type: ignore[method-assign]

    def _receive(self, name: str, message: Any) -> None:
        if isinstance(message, Prefilled) and message.pieces and message.attempt == 0:
            self.spoilt.add(message.request)
            message = self.spoil(message)
        if isinstance(message, Rejected):
            self.mend()
        self._deliver(name, message)

    def spoil(self, message: Prefilled) -> Prefilled:
        """Another checksum than that of the bytes, for one block."""
        *rest, last = message.pieces
        wrong = replace(last, checksum=last.checksum ^ 1)
        return msgspec.structs.replace(message, pieces=(*rest, wrong))

    def mend(self) -> None:
        """Nothing to be mended: the next attempt has other messages."""


class Flipper(Spoiler):
    """Flips a bit of the owner's memory between the promise and the read, and back afterwards."""

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        self._flipped: Piece | None = None

    def spoil(self, message: Prefilled) -> Prefilled:
        assert self._flipped is None
        self._flipped = message.pieces[-1]
        flip(self._flipped)
        return message

    def mend(self) -> None:
        assert self._flipped is not None
        flip(self._flipped)
        self._flipped = None


def flip(piece: Piece) -> None:
    """Change one bit of a piece of shared memory, in the process that owns it."""
    pid, descriptor = piece.region.address.split(":")
    region = os.stat(f"/proc/{pid}/fd/{descriptor}")
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, _, _, device, inode, *_ = line.split()
        major, minor = (int(part, 16) for part in device.split(":"))
        if (os.makedev(major, minor), int(inode)) == (region.st_dev, region.st_ino):
            begin = int(addresses.partition("-")[0], 16) + HEADER_BYTES + piece.offset
            break
    else:
        raise AssertionError("the region is not mapped")
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        [byte] = memory.read(1)
        memory.seek(begin)
        memory.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("transfer", ["shm", "tcp"])
def test_a_hand_over_with_a_wrong_checksum_is_computed_again(
    model: Path, tmp_path: Path, transfer: str
) -> None:
    async def scene() -> None:
        async with server(settings(tmp_path / "kv", transfer=transfer), model) as front:
            calm = await answers(front, PROMPTS)
            spoiler = Spoiler(front)
            asked = (answer(front, request_of(f"s{n}", p)) for n, p in enumerate(PROMPTS))
            assert await asyncio.gather(*asked) == calm
            assert len(spoiler.spoilt) == len(PROMPTS) == front.status().counters["retries"]
            await counted(front, "spoilt_transfers", len(PROMPTS))
            await settled(front)

    run(scene())


def test_a_bit_that_flips_under_a_hand_over_is_never_served(model: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        async with server(settings(tmp_path / "kv"), model) as front:
            calm = await answers(front, PROMPTS)
            try:
                flipper = Flipper(front)
                heard = [
                    await answer(front, request_of(f"f{n}", prompt))
                    for n, prompt in enumerate(PROMPTS)
                ]
            except PermissionError:
                pytest.skip("may not write into the memory of its own children")
            assert heard == calm
            assert len(flipper.spoilt) == len(PROMPTS) == front.status().counters["retries"]
            await settled(front)
            assert await answers(front, PROMPTS) == calm

    run(scene())


# A full disk --------------------------------------------------------------------------------


@contextlib.contextmanager
def limited(front: Front, folder: Path) -> Iterator[None]:
    """No file of the cache peer may grow: the system refuses every block."""
    cache = peer_of(front, "cache")
    assert cache is not None
    before = resource.prlimit(cache.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(cache.pid, resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.prlimit(cache.pid, resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def full(front: Front, folder: Path) -> Iterator[None]:
    """Something else fills the disk, so that there is no space left for a block."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "silva-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def through_a_full_disk(model: Path, folder: Path, fills: Any) -> None:
    """The server goes on in RAM, says that it cannot write, and writes again when it can."""
    long = [tuple(prompt * 3)[:100] for prompt in PROMPTS[:6]]
    async with server(settings(folder / "calm"), model) as front:
        calm = await answers(front, long)
    for file in (folder / "calm").rglob("*"):
        if file.is_file():
            file.unlink()
    async with server(settings(folder / "kv"), model) as front:
        with fills(front, folder):
            assert await answers(front, long) == calm
            await counted(front, "write_errors", 1)
            assert await answers(front, long) == calm
            assert front.status().cache.disk_bytes == 0
            assert front.status().counters["corrupt"] == 0
        while front.status().cache.disk_bytes == 0:  # it tries again by itself
            await asyncio.sleep(0.1)
        assert await answers(front, long) == calm
        await settled(front)


def test_a_disk_that_takes_nothing_is_done_without(model: Path, tmp_path: Path) -> None:
    run(through_a_full_disk(model, tmp_path, limited))


def test_a_full_disk_is_done_without(model: Path, small_disk: Path) -> None:
    run(through_a_full_disk(model, small_disk, full))


# Slow peers ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def slowed(pid: int) -> AsyncIterator[None]:
    """A process that runs a fifth of the time."""

    async def hinder() -> None:
        while True:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.08)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(hinder())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("role", ["prefill", "decode", "cache"])
def test_a_slow_peer_is_waited_for(model: Path, tmp_path: Path, role: str) -> None:
    async def scene() -> None:
        async with server(settings(tmp_path / "kv", silence_s=20.0), model) as front:
            calm = await answers(front, PROMPTS)
            slow = peer_of(front, role)
            assert slow is not None
            async with slowed(slow.pid):
                asked = (answer(front, request_of(f"s{n}", p)) for n, p in enumerate(PROMPTS))
                assert await asyncio.gather(*asked) == calm
            counters = front.status().counters
            assert (counters["retries"], counters["refused_late"]) == (0, 0)
            await all_ready(front)
            await settled(front)

    run(scene())
