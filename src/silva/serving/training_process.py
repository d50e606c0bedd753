"""The process in which a client's examples are trained on, for a leaf or for a probe.

It gets its work over a connection, so nothing of a client's examples is on disk, and gives back bytes;
the forest's folder is written by the server alone. It ends with the server, however that ends. One that
tunes a leaf has idle priority and one thread, and asks leave before every pass; one that probes is
waited for. This module is imported before the process has stepped back, so torch comes later.
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

from silva.errors import DataError, ForestError, HelperError, SilvaError
from silva.serving.process_name import show_as

if TYPE_CHECKING:
    from silva.adapters.forest import Forest
    from silva.serving.training_work import Work

TUNER = "tuner"
PROBER = "prober"
SILENCE_S = 3600.0
"""After so long without a word it counts as stuck: on cores that are never idle a pass takes long."""
MOST_BYTES = 1 << 30
"""Of a leaf or a probe."""
_PASS, _RESULT, _REFUSED = b"p", b"l", b"r"
_BLAMED = {kind.__name__: kind for kind in (DataError, ForestError)}
"""Errors that are the examples' or the forest's, and not the process's."""


class TrainingProcess:
    """The server's end. Methods may be called by several threads; `hear` and `begin` block."""

    def __init__(self, name: str) -> None:
        """`name`: TUNER, which steps back, or PROBER. Raises OSError where no process can be had."""
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        with theirs:
            self._process = context.Process(
                target=main, args=(theirs, name), name=name, daemon=True
            )
            self._process.start()
        self.pid = self._process.pid

    def begin(self, work: Work, forest: Forest, client: str, examples: object) -> None:
        """Send the work. Raises HelperError where the process has ended."""
        whole = (work, forest.folder, forest.manifest.to_bytes(), client, examples)
        try:
            self._connection.send_bytes(pickle.dumps(whole))
        except OSError:
            raise self._ended() from None

    def hear(self) -> tuple[int, int] | bytes:
        """Passes done and all passes, of who asks leave for the next one (`go`), or the result.

        Raises DataError and ForestError where the work refuses, HelperError with the reason where else
        there will be no result.
        """
        heard = multiprocessing.connection.wait(
            [self._connection, self._process.sentinel], SILENCE_S
        )
        if not heard:
            raise HelperError(f"the {self._name} said nothing for {SILENCE_S:g} s")
        try:
            word = self._connection.recv_bytes(MOST_BYTES) if self._connection.poll() else b""
        except (EOFError, OSError):
            raise self._ended() from None
        kind, content = word[:1], word[1:]
        if kind == _PASS:
            done, passes = json.loads(content)
            return int(done), int(passes)
        if kind == _REFUSED:
            raise _refusal(**json.loads(content))
        if kind != _RESULT:
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
        return HelperError(f"the {self._name}'s process ended (exit code {self._process.exitcode})")


def _refusal(kind: str, what: str, where: str, remedy: str) -> SilvaError:
    return _BLAMED.get(kind, HelperError)(what, where=where, remedy=remedy)


def main(connection: Connection, name: str) -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides
    if name == TUNER:
        _step_back()
    _end_with_the_server()
    show_as(name)
    whole = pickle.loads(connection.recv_bytes())
    connection.send_bytes(_answer(whole, connection, 1 if name == TUNER else None))


def _answer(whole: Any, connection: Connection, threads: int | None) -> bytes:
    """Do the work; its result, or why there is none."""
    import torch

    from silva.adapters.forest import Forest
    from silva.adapters.manifest import Manifest

    if threads is not None:
        torch.set_num_threads(threads)
    work, folder, manifest, client, examples = whole
    forest = Forest(folder, Manifest.from_bytes(manifest, folder))

    def leave(done: int, passes: int) -> None:
        connection.send_bytes(_PASS + json.dumps([done, passes]).encode())
        connection.recv_bytes()

    try:
        return _RESULT + bytes(work.result(forest, client, examples, leave))
    except SilvaError as error:
        told = {"kind": type(error).__name__, "what": error.what}
        told |= {"where": error.where, "remedy": error.remedy or error.usual}
        return _REFUSED + json.dumps(told).encode()


def _step_back() -> None:
    """Run when no other process wants a core. The session stays the server's: the system shares
    cores between sessions first, and a nice process of another session is not behind this one's.
    """
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
