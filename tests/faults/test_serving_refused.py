"""Memory or a folder that cannot be had: one line, exit code 2, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from serving_world import CARD, answers, kill, prompts, run, save_model, server, settings

from silva.errors import SilvaError
from silva.serving import supervisor
from silva.serving.cache.disk import DiskTier
from silva.serving.front import Front
from silva.serving.peers.start import PeerStart

PROGRAM = "from silva.cli.main import run; run()"
TOO_MUCH = ("900TiB", str(2 * psutil.virtual_memory().total))
"""More than addresses reach, and twice what the machine has: mapped, but never there to be used."""
WITHIN_S = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def scratch() -> Iterator[Path]:
    # short: sockets lie in it
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        yield Path(folder)


def refused(model: Path, scratch: Path, *flags: object) -> str:
    """The one line that `silva serve` says before it gives up."""
    words = ["serve", model, "--port", 0, "--set", "serve.threads=1", *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(scratch), "SILVA_CACHE": str(scratch / "c")},
    )
    try:
        said, complaint = process.communicate(timeout=WITHIN_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 2, complaint
    psutil.wait_procs(session(process.pid), timeout=30)
    assert not session(process.pid)
    assert {path.name for path in scratch.iterdir()} <= {"c", "kv"}
    assert len(complaint.splitlines()) == 1, complaint
    assert complaint.startswith("silva: error: ")
    assert said.count("\n") <= 1  # a cache may fail after the others serve
    return complaint


def session(leader: int) -> list[psutil.Process]:
    """Processes of a session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


@pytest.mark.parametrize("how", [(), ("--colocated",)])
def test_memory_for_blocks(model: Path, scratch: Path, how: tuple[str, ...]) -> None:
    for much in TOO_MUCH:
        line = refused(model, scratch, "--kv", much, *how)
        assert "serve.kv.peer_bytes: " in line
        assert line.endswith("ask for less with --kv\n")


def test_memory_for_the_cache(model: Path, scratch: Path) -> None:
    for much in TOO_MUCH:
        line = refused(model, scratch, "--kv", "4MiB", "--cache-ram", much)
        assert "serve.kv.cache_ram_bytes: " in line
        assert line.endswith("ask for less with --cache-ram\n")


def test_a_file_as_the_caches_folder(model: Path, scratch: Path) -> None:
    (scratch / "kv").write_text("something else")
    folder = f"serve.kv.cache_folder={scratch / 'kv'}"
    line = refused(model, scratch, "--kv", "4MiB", "--cache-ram", "1MiB", "--set", folder)
    assert f"cache-1: cannot start: {scratch / 'kv' / 'cache-1'}: " in line
    assert "Not a directory" in line and "serve.kv.cache_folder" in line


def test_a_folder_that_another_server_has(model: Path, scratch: Path) -> None:
    other = DiskTier(scratch / "kv" / "cache-1", 1 << 20)
    folder = f"serve.kv.cache_folder={scratch / 'kv'}"
    line = refused(model, scratch, "--kv", "4MiB", "--cache-ram", "1MiB", "--set", folder)
    assert "another process keeps its cache there" in line and "serve.kv.cache_folder" in line
    other.close()


def test_a_peer_that_cannot_be_replaced_is_told_of_in_one_line(
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.1)
    folder = tmp_path / "kv"
    asked = prompts(2)

    async def scene() -> None:
        async with server(settings(folder), model) as front:
            calm = await answers(front, asked)
            folder.rename(tmp_path / "moved")
            folder.write_text("something else")
            await kill(front, "cache")
            while front._supervisor.names("cache"):
                await asyncio.sleep(0.02)
            assert await answers(front, asked) == calm
            assert front.ready()

    run(scene())
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(told) == 1
    assert told[0].startswith(f"cache-1 cannot start, and is not tried again: {folder}/cache-1: ")
    assert "Traceback" not in capfd.readouterr().err


def dies(start: PeerStart, last_words: Connection) -> None:
    """In place of a peer's main function: a defect."""
    os._exit(3)


def test_a_server_whose_peers_only_die_gives_up(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "run", dies)
    failures: list[SilvaError] = []

    async def scene() -> None:
        front = Front(settings(tmp_path / "kv"), model, [CARD], failures.append)
        await front.open()
        while not failures:
            await asyncio.sleep(0.02)
        assert not front.ready()
        await front.close(grace_s=0.0)

    run(scene())
    assert "cannot start: it has ended 5 times before it could serve (exit code 3)" in str(
        failures[0]
    )
