"""One process of a peer, forked from a server process that has imported torch and run nothing.

Its end is read from a descriptor of the process itself. What multiprocessing watches is a pipe to
the server process: when that one dies, all its children look dead and live on.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from silva.serving.peers.start import PeerStart

PRELOAD = "silva.serving.peers.preload"

CODE_S = 5.0
"""So long the server process may take to say how a process has ended that has."""

_SERVER_GONE = 255
"""In place of an exit code, where the server process has ended before it could say one."""


def preload() -> None:
    """Start the process that peers are forked from, which imports what they need meanwhile.

    For who has more to do before the first peer. It ends with this process. If it dies before, the
    next process that is forked starts another.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOAD])
    multiprocessing.forkserver.ensure_running()


def end_server() -> None:
    """End that process, from whichever thread. One that is stopped lets a fork wait for ever: this is
    an EOFError or OSError for who waits, and the next process that is forked starts another.
    """
    server: Any = multiprocessing.forkserver._forkserver  # nothing public says its pid
    with server._lock, contextlib.suppress(ProcessLookupError):
        if server._forkserver_pid is not None:
            os.kill(server._forkserver_pid, signal.SIGKILL)


class Forked:
    """See the module. Making one and `how` may block for seconds, where the server process has to
    be started anew: they belong on one thread, the same for all, as multiprocessing keeps a list.
    The rest belongs to the event loop.
    """

    def __init__(self, main: Callable[[PeerStart, Connection], None], start: PeerStart) -> None:
        """`main` runs in the new process and is given `start` and a connection for its last words.

        Raises OSError or EOFError when no process can be had.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([PRELOAD])
        self._last_words, says = context.Pipe(duplex=False)
        with contextlib.ExitStack() as undo:
            undo.callback(self._last_words.close)
            with says:
                args = (start, says)
                self._process = context.Process(
                    target=main, args=args, name=start.name, daemon=True
                )
                self._process.start()
            self._pidfd = self._opened()
            undo.pop_all()

    def _opened(self) -> int | None:
        """A descriptor of the process; None when it has ended so soon that nobody knows its pid."""
        assert self._process.pid is not None
        try:
            pidfd = os.pidfd_open(self._process.pid)
        except ProcessLookupError:
            return None
        except OSError:
            self._process.kill()
            raise
        if self._process.exitcode is None:
            return pidfd
        os.close(pidfd)  # it may be of another process by now
        return None

    def kill(self) -> None:
        """End it at once, if it has not ended. Not to be called after `ended`."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def ended(self) -> None:
        """Wait for its end."""
        if self._pidfd is None:
            return
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(self._pidfd, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._pidfd)

    def how(self) -> tuple[int | None, str]:
        """Once it has ended: its exit code, None where nobody says so, and its last words."""
        self._process.join(CODE_S)
        code = self._process.exitcode
        if code == _SERVER_GONE:
            code = None
        with contextlib.suppress(ValueError):  # multiprocessing takes it for alive
            self._process.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        with self._last_words:
            try:
                return code, str(self._last_words.recv()) if self._last_words.poll() else ""
            except (EOFError, OSError):
                return code, ""
