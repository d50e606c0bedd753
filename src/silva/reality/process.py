"""A `silva serve` of its own: started, waited for, asked what its processes consume, and stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from silva.errors import RunError

START_S = 180.0
_POLL_S = 0.1
_COMMAND = (sys.executable, "-c", "from silva.cli.main import run; run()")
_PREFIX = "silva: serving at "
_PR_SET_PDEATHSIG = 1


class ServerProcess:
    """A server that answers at `url`."""

    def __init__(self, url: str, pid: int) -> None:
        self.url, self.pid = url, pid
        self.engines = {
            peer["pid"] for peer in self.status()["peers"] if peer["role"] in ("prefill", "decode")
        }
        """Processes that compute."""
        self.blocks = min(
            peer["blocks_total"] for peer in self.status()["peers"] if peer["pid"] in self.engines
        )
        """Of keys and values, in one of them."""

    def status(self) -> dict[str, Any]:
        """What /admin/v1/status says."""
        found: dict[str, Any] = httpx.get(f"{self.url}/admin/v1/status", trust_env=False).json()
        return found

    def other_cpu_s(self) -> float:
        """Seconds of cores that its processes but the engines have used so far."""
        return sum(cpu_s(pid) for pid in family(self.pid) - self.engines)


@contextmanager
def serving(arguments: Sequence[str], peers: int) -> Iterator[ServerProcess]:
    """`silva serve` with these arguments on a free port, once so many peers are ready.

    Its cache lies in a folder that goes with it. RunError with the end of its log when it ends, or
    does not come up in time.
    """
    with tempfile.TemporaryDirectory(prefix="silva-reality-") as folder:
        log = Path(folder) / "log"
        own = ["--port", "0", "--set", f"serve.kv.cache_folder={folder}/kv"]
        with log.open("wb") as stream:
            child = subprocess.Popen(
                [*_COMMAND, "serve", *arguments, *own],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,
            )
        try:
            yield ServerProcess(_ready(child, log, peers), child.pid)
        finally:
            child.terminate()
            try:
                child.wait(45.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _ready(child: subprocess.Popen[bytes], log: Path, peers: int) -> str:
    """Its address, once all peers are there."""
    end_s = time.monotonic() + START_S
    url = ""
    while time.monotonic() < end_s and child.poll() is None:
        time.sleep(_POLL_S)
        if not url:
            lines = log.read_text(errors="replace").splitlines()
            told = [line for line in lines if line.startswith(_PREFIX)]
            url = told[0].removeprefix(_PREFIX).removesuffix("/v1") if told else ""
            continue
        try:
            found = httpx.get(f"{url}/admin/v1/status", trust_env=False).json()["peers"]
        except (httpx.HTTPError, ValueError, KeyError):
            continue
        if sum(peer["state"] == "ready" for peer in found) >= peers:
            return url
    said = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
    raise RunError(f"silva serve did not come up: {said[:300]}", remedy="try silva serve itself")


def end_with_parent() -> None:
    """In a child before its program: SIGTERM for it when its parent dies, be it by SIGKILL. Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def family(pid: int) -> set[int]:
    """A process and all that it started, those among them that theirs started."""
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for parent in new for child in _children(parent)} - found
    return found


def _children(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, path.read_text().split())
        except OSError:
            continue  # the thread has just ended


def cpu_s(pid: int) -> float:
    """Seconds that all threads of a process have run, as exact as the kernel counts; 0 once gone."""
    total_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(path.read_text().split()[0])
        except (OSError, IndexError):
            continue
    return total_ns / 1e9


def own_cpu_s() -> float:
    """The same of this process."""
    return cpu_s(os.getpid())
