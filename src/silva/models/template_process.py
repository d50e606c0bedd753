"""The other end of `template_worker`: starts it, asks it, replaces it when it ended."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from silva.errors import HelperError

log = logging.getLogger("silva.template")

WORKER = Path(__file__).with_name("template_worker.py")
WALL_S = 60.0
"""For one answer, and for the start: whoever takes so long is not just slowed down."""
LOOK_S = 1.0
"""After so long without a word it is looked at whether the worker was stopped."""
LARGEST_ANSWER_BYTES = 64 << 20
LENGTH_BYTES = 8

FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP})
"""Ends that no template brings about: an operator's, or the system's when memory is short."""

Result = TypeVar("Result")


class _GoneError(Exception):
    """The worker went away, or was stopped: the same can be asked of another one."""

    def __init__(self, how: str, *, by_itself: bool = False) -> None:
        """`by_itself`: so that what it was asked may be the reason."""
        self.by_itself = by_itself
        super().__init__(how)


class TemplateProcess:
    """A process that renders templates, started when first needed and again after it was ended.

    It ends with this object, and with the process that started it, however that ends.
    """

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: seconds of processor time that one rendering may take.

        The wall would punish templates for what else the machine does.
        """
        self._limit_s, self._wall_s = limit_s, WALL_S
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[[subprocess.Popen[bytes], socket.socket], Any] | None
        self._finalizer = None

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """The worker's answer to `request`, or {"failed": why} where the request brings none about.

        A worker that was ended or stopped by others is replaced and the new one asked once. Raises
        HelperError where that goes away too, does not start, or says nothing for `WALL_S`.
        """
        content = json.dumps({**request, "limit_s": self._limit_s}).encode()
        with self._lock:
            try:
                return self._answer(content)
            except _GoneError as error:
                log.warning("the process for chat templates %s; another one is asked", error)
            try:
                return self._answer(content)
            except _GoneError as error:
                if error.by_itself:
                    return {"failed": f"its process {error}, twice"}
                raise HelperError(f"the process for chat templates {error}") from None

    def close(self) -> None:
        """End the process; `ask` would start another."""
        with self._lock:
            self._end()

    def _answer(self, content: bytes) -> dict[str, str]:
        connection = self._connected()
        end = time.monotonic() + self._wall_s
        try:
            self._send(connection, len(content).to_bytes(LENGTH_BYTES, "little") + content, end)
            size = int.from_bytes(self._receive(connection, LENGTH_BYTES, end), "little")
            if size > LARGEST_ANSWER_BYTES:
                self._end()
                return {"failed": "its result is too large"}
            found: dict[str, str] = json.loads(self._receive(connection, size, end))
        except TimeoutError:
            self._end()
            what = f"the process for chat templates did not answer within {self._wall_s:g} s"
            raise HelperError(what) from None
        except OSError as error:
            return self._ended(error)
        except BaseException:
            # half an answer may be on its way, which must not be taken for the next one
            self._end()
            raise
        return found

    def _ended(self, error: OSError) -> dict[str, str]:
        """After the worker went away: the limit of time, or _GoneError."""
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0) if self._process is not None else None
        self._end()
        if code == -signal.SIGPROF:
            return {"failed": f"it took more than {self._limit_s:g} s of processor time"}
        by_itself = code is not None and code not in FROM_OUTSIDE
        raise _GoneError(f"ended ({error}; exit code {code})", by_itself=by_itself)

    def _connected(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # -P: the folder of the script is not searched for modules
                process = subprocess.Popen(
                    [sys.executable, "-P", str(WORKER)], stdin=theirs.fileno()
                )
            except OSError as error:
                ours.close()
                raise _GoneError(f"does not start ({error})") from None
        self._socket, self._process = ours, process
        self._finalizer = weakref.finalize(self, _finish, process, ours)
        try:
            self._receive(ours, 1, time.monotonic() + WALL_S)
        except OSError as error:
            self._end()
            raise _GoneError(f"does not start ({str(error) or 'it says nothing'})") from None
        except BaseException:
            self._end()
            raise
        return ours

    def _end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._socket = self._process = self._finalizer = None

    def _send(self, connection: socket.socket, content: bytes, end: float) -> None:
        """All of `content` before the clock shows `end`; TimeoutError or ConnectionError."""
        left = memoryview(content)
        while left:
            sent = self._patiently(connection, partial(connection.send, left), end)
            left = left[sent:]

    def _receive(self, connection: socket.socket, size: int, end: float) -> bytes:
        """`size` bytes before the clock shows `end`; TimeoutError or ConnectionError."""
        found = bytearray()
        while len(found) < size:
            most = min(size - len(found), 1 << 20)
            piece = self._patiently(connection, partial(connection.recv, most), end)
            if not piece:
                raise ConnectionError("it closed its side")
            found += piece
        return bytes(found)

    def _patiently(
        self, connection: socket.socket, step: Callable[[], Result], end: float
    ) -> Result:
        """The result of one call on the connection. Raises _GoneError once the worker is stopped."""
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(min(left, LOOK_S))
            try:
                return step()
            except TimeoutError:
                if self._process is not None and _is_stopped(self._process.pid):
                    raise _GoneError("was stopped") from None


def _is_stopped(child: int) -> bool:
    """Whether a signal has stopped this child, which leaves whoever waits for it waiting."""
    try:
        return os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _finish(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()
