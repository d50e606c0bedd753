"""The other end of `template_worker`: starts it, asks it, replaces it when it ended."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from silva.errors import SilvaError

WORKER = Path(__file__).with_name("template_worker.py")
WALL_S = 60.0
"""For one answer, and for the start: whoever takes so long was stopped, not slowed down."""
LARGEST_ANSWER_BYTES = 64 << 20
LENGTH_BYTES = 8


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
        """The worker's answer to `request`, or {"failed": why} where there was none in time."""
        content = json.dumps({**request, "limit_s": self._limit_s}).encode()
        with self._lock:
            connection = self._connected()
            end = time.monotonic() + self._wall_s
            try:
                connection.settimeout(self._wall_s)
                connection.sendall(len(content).to_bytes(LENGTH_BYTES, "little") + content)
                size = int.from_bytes(_exactly(connection, LENGTH_BYTES, end), "little")
                if size > LARGEST_ANSWER_BYTES:
                    raise ConnectionError("its result is too large")
                found: dict[str, str] = json.loads(_exactly(connection, size, end))
            except TimeoutError:
                self._end()
                return {"failed": f"its process did not answer within {self._wall_s:g} s"}
            except OSError as error:
                return {"failed": self._why_ended(error)}
            except BaseException:
                # half an answer may be on its way, which must not be taken for the next one
                self._end()
                raise
            return found

    def close(self) -> None:
        """End the process; `ask` would start another."""
        with self._lock:
            self._end()

    def _why_ended(self, error: OSError) -> str:
        """After the worker went away by itself."""
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process is not None and process.wait(1.0) == -signal.SIGPROF:
                self._end()
                return f"it took more than {self._limit_s:g} s of processor time"
        self._end()
        return f"its process ended ({error})"

    def _connected(self) -> socket.socket:
        if self._socket is not None and self._process is not None and self._process.poll() is None:
            return self._socket
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: the folder of the script is not searched for modules
            process = subprocess.Popen([sys.executable, "-P", str(WORKER)], stdin=theirs.fileno())
        self._socket, self._process = ours, process
        self._finalizer = weakref.finalize(self, _finish, process, ours)
        try:
            _exactly(ours, 1, time.monotonic() + WALL_S)
        except OSError as error:
            self._end()
            raise SilvaError(
                f"the process for chat templates does not start ({error})",
                remedy="see above for its own message",
            ) from None
        return ours

    def _end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._socket = self._process = self._finalizer = None


def _finish(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()


def _exactly(connection: socket.socket, size: int, end: float) -> bytes:
    """`size` bytes before the clock shows `end`; TimeoutError or ConnectionError."""
    found = bytearray()
    while len(found) < size:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(min(size - len(found), 1 << 20))
        if not piece:
            raise ConnectionError("it may have run out of memory")
        found += piece
    return bytes(found)
