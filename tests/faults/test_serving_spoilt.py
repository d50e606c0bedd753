"""Transfers are corrupted, disks are full, peers are slow, under 200 streams of a trained model: the
answers are those of a calm server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from crowd import WITHIN_S, crowd, repeated, roomy, stories
from kill_scene import DISTINCT, STREAMS
from serving_world import all_ready, peer_of, run, server, settled

from silva.serving.front import Front
from silva.serving.wire.messages import Prefilled, Rejected
from silva.transfer import Piece
from silva.transfer.shm import HEADER_BYTES

ROLES = ("prefill", "decode", "cache")


@dataclass(frozen=True)
class Scene:
    """A model, prompts, and what a crowd that asks them hears of a server in no trouble."""

    model: Path
    prompts: list[tuple[int, ...]]
    calm: list[list[int]]


@pytest.fixture(scope="module")
def world(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    asked, calm = stories(trained), []

    async def scene() -> None:
        async with server(roomy(tmp_path_factory.mktemp("kv")), trained) as front:
            calm.extend(await crowd(front, asked, DISTINCT))

    run(scene(), WITHIN_S)
    return Scene(trained, asked, repeated(calm))


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
            self.mend(message.request)
        self._deliver(name, message)

    def spoil(self, message: Prefilled) -> Prefilled:
        """Another checksum than that of the bytes, for one block."""
        *rest, last = message.pieces
        wrong = replace(last, checksum=last.checksum ^ 1)
        return msgspec.structs.replace(message, pieces=(*rest, wrong))

    def mend(self, request: str) -> None:
        """Nothing to be mended: the next attempt has other messages."""


class Flipper(Spoiler):
    """Flips a bit of the owner's memory between the promise and the read, and back afterwards.

    It lies in the last block, which is the request's own, since it is not full.
    """

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        self._flipped: dict[str, Piece] = {}

    def spoil(self, message: Prefilled) -> Prefilled:
        self._flipped[message.request] = message.pieces[-1]
        flip(message.pieces[-1])
        return message

    def mend(self, request: str) -> None:
        if request in self._flipped:
            flip(self._flipped.pop(request))


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


def writable(pid: int) -> bool:
    """Whether this process may write into the memory of another one."""
    try:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0):
            return True
    except PermissionError:
        return False


@pytest.mark.parametrize("transfer", ["shm", "tcp"])
def test_a_hand_over_with_a_wrong_checksum_is_computed_again(
    world: Scene, tmp_path: Path, transfer: str
) -> None:
    """Both ways of transfer say the same, too: in the calm server it was shared memory."""

    async def scene() -> None:
        async with server(roomy(tmp_path / "kv", transfer), world.model) as front:
            spoiler = Spoiler(front)
            assert await crowd(front, world.prompts) == world.calm
            assert len(spoiler.spoilt) == STREAMS == front.status().counters["retries"]
            await counted(front, "spoilt_transfers", STREAMS)
            await settled(front)

    run(scene(), WITHIN_S)


def test_a_bit_that_flips_under_a_hand_over_is_never_served(world: Scene, tmp_path: Path) -> None:
    async def scene() -> None:
        async with server(roomy(tmp_path / "kv"), world.model) as front:
            owner = peer_of(front, "prefill")
            assert owner is not None
            if not writable(owner.pid):
                pytest.skip("may not write into the memory of its own children")
            flipper = Flipper(front)
            assert await crowd(front, world.prompts) == world.calm
            assert len(flipper.spoilt) == STREAMS == front.status().counters["retries"]
            await settled(front)
            assert await crowd(front, world.prompts, DISTINCT) == world.calm[:DISTINCT]

    run(scene(), WITHIN_S)


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


Fills = Callable[[Front, Path], contextlib.AbstractContextManager[None]]


async def through_a_full_disk(world: Scene, folder: Path, fills: Fills) -> None:
    """The server goes on in RAM, says that it cannot write, and writes again when it can."""
    async with server(roomy(folder / "kv"), world.model) as front:
        with fills(front, folder):
            assert await crowd(front, world.prompts) == world.calm
            await counted(front, "write_errors", 1)
            again = await crowd(front, world.prompts, DISTINCT)
            assert again == world.calm[:DISTINCT]
            assert front.status().cache.disk_bytes == 0
            assert front.status().counters["corrupt"] == 0
        while front.status().cache.disk_bytes == 0:  # it tries again by itself
            await asyncio.sleep(0.1)
        assert await crowd(front, world.prompts) == world.calm
        await settled(front)


def test_a_disk_that_takes_nothing_is_done_without(world: Scene, tmp_path: Path) -> None:
    run(through_a_full_disk(world, tmp_path, limited), WITHIN_S)


def test_a_full_disk_is_done_without(world: Scene, small_disk: Path) -> None:
    run(through_a_full_disk(world, small_disk, full), WITHIN_S)


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


def test_a_slow_peer_is_waited_for(world: Scene, tmp_path: Path) -> None:
    async def scene() -> None:
        async with server(roomy(tmp_path / "kv"), world.model) as front:
            for role in ROLES:
                slow = peer_of(front, role)
                assert slow is not None
                async with slowed(slow.pid):
                    # In a namespace of its own: nothing is there that was computed before.
                    assert await crowd(front, world.prompts, namespace=role) == world.calm
                counters = front.status().counters
                assert (counters["retries"], counters["refused_late"]) == (0, 0)
            await all_ready(front)
            await settled(front)

    run(scene(), WITHIN_S)
