"""Real processes: how they end is known, and the end of the one they are forked from is not theirs."""

from __future__ import annotations

import asyncio
import multiprocessing.forkserver
import os
import signal
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import forked_mains
import psutil
import pytest

from silva.serving.forked import Forked, end_server

START: Any = SimpleNamespace(name="decode-1")


def fork(main: Callable[..., None]) -> Forked:
    return Forked(main, START)


def servers() -> list[psutil.Process]:
    """The processes that those of this one are forked from."""
    return [c for c in psutil.Process().children() if "forkserver" in " ".join(c.cmdline())]


async def end_of(process: Forked) -> tuple[int | None, str]:
    await asyncio.wait_for(process.ended(), 60)
    return process.how()


@pytest.mark.parametrize(
    ("main", "code", "said"),
    [
        (forked_mains.gives_up, 7, "decode-1 has no memory"),
        (forked_mains.says_half, -signal.SIGKILL, ""),
    ],
)
def test_exit_code_and_last_words(main: Callable[..., None], code: int, said: str) -> None:
    assert asyncio.run(end_of(fork(main))) == (code, said)


def test_it_outlives_the_process_that_it_was_forked_from() -> None:
    async def scene() -> None:
        first = fork(forked_mains.waits)
        (server,) = servers()
        server.send_signal(signal.SIGTERM)  # as to the whole group
        second = fork(forked_mains.waits)
        assert servers() == [server]
        server.kill()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first.ended(), 1.0)
        third = fork(forked_mains.waits)  # another is started for it
        for process in (first, second, third):
            process.kill()
        for process in (first, second):
            assert await end_of(process) == (None, "")  # who could say their code is gone
        assert await end_of(third) == (-signal.SIGKILL, "")

    asyncio.run(scene())


def test_a_server_process_that_is_stopped_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    waits_for_it = threading.Event()
    read = multiprocessing.forkserver.read_signed  # type: ignore[attr-defined]

    def seen(descriptor: int) -> int:
        waits_for_it.set()
        found: int = read(descriptor)
        return found

    async def scene() -> None:
        first = fork(forked_mains.waits)
        (server,) = servers()
        server.suspend()
        monkeypatch.setattr(multiprocessing.forkserver, "read_signed", seen)
        second = asyncio.create_task(asyncio.to_thread(fork, forked_mains.waits))
        assert await asyncio.to_thread(waits_for_it.wait, 60)
        assert not second.done()
        end_server()
        with pytest.raises(EOFError):
            await asyncio.wait_for(second, 60)
        while server.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
        third = fork(forked_mains.waits)
        for process, code in ((first, None), (third, -signal.SIGKILL)):
            process.kill()
            assert await end_of(process) == (code, "")

    asyncio.run(scene())


def test_without_a_descriptor_no_process_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []

    def none_left(pid: int) -> int:
        pids.append(pid)
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as short:
        short.setattr(os, "pidfd_open", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            fork(forked_mains.waits)
    psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=30)
    assert len(pids) == 1
    assert not psutil.pid_exists(pids[0])


def test_one_that_has_ended_before_it_is_known_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(os, "pidfd_open", gone)
    process = fork(forked_mains.gives_up)
    process.kill()
    assert asyncio.run(end_of(process)) == (7, "decode-1 has no memory")
