"""`silva serve` as its users start it, in a session and folders of its own; what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

PROGRAM = "from silva.cli.main import run; run()"
OPTIONS: Mapping[str, object] = {
    "--port": 0,
    "--name": "tiny",
    "--kv": "4MiB",
    "--cache-ram": "1MiB",
    "--cache-disk": "4MiB",
}
ALONE: Mapping[str, object] = {"--port": 0, "--name": "tiny"}
"""Of a server of images, which is one process."""
SHARED_MEMORY = Path("/dev/shm")
WITHIN_S = 30.0
"""After its end nothing of a server may be there for longer."""


class Command:
    """`silva serve MODEL`, one thread a peer; `settings` as `--set` takes them."""

    def __init__(
        self,
        model: Path,
        settings: Sequence[str] = (),
        in_child: Callable[[], object] | None = None,
        usual: Mapping[str, object] = OPTIONS,
        **options: object,
    ) -> None:
        """`options`: flags without their dashes, beside or instead of the `usual` ones. `in_child` is
        called in the new process before the command is.
        """
        # short: sockets lie in it
        self._scratch = tempfile.TemporaryDirectory(prefix="s-")
        self.folder = Path(self._scratch.name)
        self._shared_before = set(os.listdir(SHARED_MEMORY))
        words: list[object] = ["serve", model, "--set", "serve.threads=1"]
        for flag, value in {**usual, **{f"--{n}": v for n, v in options.items()}}.items():
            words += [flag, value]
        for setting in settings:
            words += ["--set", setting]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=in_child,
            env=os.environ | {"TMPDIR": str(self.folder), "SILVA_CACHE": str(self.folder / "c")},
        )
        self.traces = Traces(self.process.pid)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        self.url = said.rpartition(" ")[2].strip().removesuffix("/v1")
        if not self.url.startswith("http"):
            self.close()
            raise AssertionError(f"the server has not started, it said {said!r}")
        self.traces.note()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/admin/v1/status", timeout=60).json()
        return found

    def settled(self) -> dict[str, int]:
        """Wait until all peers that are wanted serve and no block is held; the counters then."""
        for _ in range(300):
            status = self.status()
            peers = status["peers"]
            assert all(p["blocks_free"] + p["blocks_used"] == p["blocks_total"] for p in peers)
            if all(p["state"] == "ready" for p in peers) and not blocks_used(status):
                assert all(p["blocks_total"] > 0 for p in peers if p["role"] != "cache")
                return dict(status["counters"])
            time.sleep(0.1)
        raise AssertionError(f"blocks are missing: {peers}")

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """End the server; the exit code."""
        self.traces.note()
        self.process.send_signal(sig)
        return self.process.wait(60)

    def left(self) -> list[str]:
        """What is still there of a server that has ended, a while after that: nothing, it should."""
        end_s = time.monotonic() + WITHIN_S
        while (found := list(self._left())) and time.monotonic() < end_s:
            time.sleep(0.1)
        return found

    def _left(self) -> Iterator[str]:
        yield from (f"process {pid}" for pid in self.traces.alive())
        yield from self.traces.held()
        # The cache folder is what a server is to leave: but no write in it that was never finished.
        yield from (str(path) for path in self.folder.iterdir() if path.name != "c")
        yield from (str(path) for path in (self.folder / "c").rglob("tmp/new-*"))
        unowned = set(os.listdir(SHARED_MEMORY)) - self._shared_before - _names_in_use()
        yield from (str(SHARED_MEMORY / name) for name in unowned)

    def close(self) -> None:
        """End it by force, if it has not ended, and remove its folders."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._scratch.cleanup()


def blocks_used(status: Mapping[str, Any]) -> int:
    """Blocks that requests hold, in all peers."""
    return sum(peer["blocks_used"] for peer in status["peers"])


class Traces:
    """Processes of one session; memory and sockets that they had, by numbers nobody else has."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._processes: set[psutil.Process] = set()
        self._memory: set[tuple[int, int]] = set()
        self._sockets: set[int] = set()
        self._inherited = {number for number, _ in _open_sockets(os.getpid())}

    @property
    def processes(self) -> int:
        """How many were noted."""
        return len(self._processes)

    @property
    def segments(self) -> int:
        """How many segments of shared memory were noted."""
        return len(self._memory)

    def note(self) -> None:
        """Add what is there now; to be called before anything is killed."""
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(self._leader)
            self._processes |= {leader, *leader.children(recursive=True)}
        for process in self._processes:
            self._memory |= {identity for identity, _ in _shared_memory(process.pid)}
            self._sockets |= {number for number, _ in _open_sockets(process.pid)}
        self._sockets -= self._inherited

    def alive(self) -> set[int]:
        """Pids of what was noted, and of anything else in the session, zombies too."""
        noted = {process.pid for process in self._processes if process.is_running()}
        return noted | {pid for pid in psutil.pids() if _session_of(pid) == self._leader}

    def held(self) -> Iterator[str]:
        """Memory that was noted and is open or mapped anywhere, Unix sockets that are bound."""
        for pid in psutil.pids():
            for identity, name in _shared_memory(pid):
                if identity in self._memory:
                    yield f"{name} in process {pid}"
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[6]) in self._sockets:
                yield f"socket {' '.join(fields[6:])}"


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _descriptors(pid: int) -> Iterator[tuple[Path, str]]:
    """Open files of a process, and what they are called; of one that is gone, none."""
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield path, str(path.readlink())


def _open_sockets(pid: int) -> Iterator[tuple[int, str]]:
    for _, name in _descriptors(pid):
        if name.startswith("socket:["):
            yield int(name.removeprefix("socket:[").removesuffix("]")), name


def _shared_memory(pid: int) -> Iterator[tuple[tuple[int, int], str]]:
    """Device and inode of each memfd or file of /dev/shm that a process has open or mapped."""
    for path, name in _descriptors(pid):
        if _is_memory(name):
            with contextlib.suppress(OSError):
                found = path.stat()
                yield (found.st_dev, found.st_ino), name
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            _, _, _, device, inode, *name_parts = line.split(maxsplit=5)
            if name_parts and _is_memory(name_parts[0]):
                major, minor = (int(part, 16) for part in device.split(":"))
                yield (os.makedev(major, minor), int(inode)), name_parts[0]


def _is_memory(name: str) -> bool:
    return name.startswith(("/memfd:", f"{SHARED_MEMORY}/"))


def _names_in_use() -> set[str]:
    """Names in /dev/shm that living processes have open or mapped: those of others."""
    return {
        name.removesuffix(" (deleted)").rpartition("/")[2]
        for pid in psutil.pids()
        for _, name in _shared_memory(pid)
        if name.startswith(f"{SHARED_MEMORY}/")
    }
