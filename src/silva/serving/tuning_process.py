"""The process in which a leaf is tuned: idle priority, one thread, and leave asked before every pass.

It gets its work over a connection, so nothing of a client's examples is on disk, and gives back the
leaf's bytes; the forest's folder is written by the server alone. It ends with the server, however that
ends. This module is imported before the process has stepped back, so torch comes later.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from silva.errors import HelperError, SilvaError
from silva.serving.process_name import show_as

if TYPE_CHECKING:
    from silva.adapters.forest import Forest
    from silva.data.labelled import LabelledFiles
    from silva.serving.newcomers import LeafTuner

NAME = "tuner"
SILENCE_S = 3600.0
"""After so long without a word it counts as stuck: on cores that are never idle a pass takes long."""
MOST_BYTES = 1 << 30
"""Of a leaf."""
_PASS, _LEAF, _REFUSED = b"p", b"l", b"r"


class TuningProcess:
    """The server's end. Methods may be called by several threads; `hear` and `begin` block."""

    def __init__(self) -> None:
        """Raises OSError where no process can be had."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        with theirs:
            self._process = context.Process(target=main, args=(theirs,), name=NAME, daemon=True)
            self._process.start()
        self.pid = self._process.pid

    def begin(self, tuner: LeafTuner, forest: Forest, client: str, examples: LabelledFiles) -> None:
        """Send the work. Raises HelperError where the process has ended."""
        work = (tuner, forest.folder, forest.manifest.to_bytes(), client, examples)
        try:
            self._connection.send_bytes(pickle.dumps(work))
        except OSError:
            raise self._ended() from None

    def hear(self) -> tuple[int, int] | bytes:
        """Passes done and all passes, of who asks leave for the next one (`go`), or the leaf's bytes.

        Raises HelperError with the reason where there will be no leaf.
        """
        heard = multiprocessing.connection.wait(
            [self._connection, self._process.sentinel], SILENCE_S
        )
        if not heard:
            raise HelperError(f"the tuner said nothing for {SILENCE_S:g} s")
        try:
            word = self._connection.recv_bytes(MOST_BYTES) if self._connection.poll() else b""
        except (EOFError, OSError):
            raise self._ended() from None
        kind, content = word[:1], word[1:]
        if kind == _PASS:
            done, passes = json.loads(content)
            return int(done), int(passes)
        if kind == _REFUSED:
            raise HelperError(content.decode())
        if kind != _LEAF:
            raise self._ended()
        return content

    def go(self) -> None:
        """Let it do the next pass. Whether it has ended says `hear`."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(b"")

    def kill(self) -> None:
        """End it; whoever hears is told so."""
        self._process.kill()

    def close(self) -> None:
        """End it and give back what belongs to it; nobody may hear any more."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _ended(self) -> HelperError:
        self._process.join(1.0)
        return HelperError(f"the tuner's process ended (exit code {self._process.exitcode})")


def main(connection: Connection) -> None:
    """The process."""
    _step_back()
    _end_with_the_server()
    show_as(NAME)
    work = pickle.loads(connection.recv_bytes())
    connection.send_bytes(_answer(work, connection))


def _answer(work: Any, connection: Connection) -> bytes:
    """Tune the leaf; its bytes, or why there is none."""
    import torch

    from silva.adapters.codec import encode_tier
    from silva.adapters.forest import Forest
    from silva.adapters.manifest import Manifest
    from silva.adapters.objects import encode_tensors

    torch.set_num_threads(1)
    tuner, folder, manifest, client, examples = work
    forest = Forest(folder, Manifest.from_bytes(manifest, folder))

    def leave(done: int, passes: int) -> None:
        connection.send_bytes(_PASS + json.dumps([done, passes]).encode())
        connection.recv_bytes()

    try:
        leaf = tuner.tune(forest, client, examples, leave)
        return _LEAF + encode_tensors(*encode_tier(leaf))
    except SilvaError as error:
        return _REFUSED + str(error).encode()


def _step_back() -> None:
    """Run when no other process wants a core. The session stays the server's: the system shares
    cores between sessions first, and a nice process of another session is not behind this one's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides
    os.nice(19)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _end_with_the_server() -> None:
    server = multiprocessing.parent_process()
    assert server is not None

    def watch() -> None:
        multiprocessing.connection.wait([server.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
