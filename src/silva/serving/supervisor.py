"""Starts the processes of the peers, notices when one ends, and replaces it.

Processes are forked from a server process that has imported torch and run nothing
(multiprocessing's forkserver), so that a new peer is there in the time it takes to map the weights.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import multiprocessing.forkserver
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from silva.serving.peers.start import PeerStart, run
from silva.serving.wire.messages import Role

log = logging.getLogger("silva.supervisor")

PRELOAD = "silva.serving.peers.preload"

MOST_DEATHS = 5
"""A peer that dies so often in a row before it could serve is not started again: it would die again."""


def preload() -> None:
    """Start the process that peers are forked from, which imports what they need meanwhile.

    For who has more to do before the first peer. It ends with this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    multiprocessing.forkserver.ensure_running()


@dataclass
class _Child:
    start: PeerStart
    process: ForkServerProcess
    last_words: Connection
    """From it: why it cannot start."""
    deaths: int = 0
    """Deaths in a row before it could serve, those of its predecessors of the same name."""
    wanted: bool = True
    served: bool = False
    """Whether it, or a predecessor of the same name, could serve: then its settings are right."""


class Supervisor:
    """All peer processes of one server, on one event loop.

    `started(name, identity, role)` is called before a process starts, `ended(name, why)` after it
    has ended: where `why` is not empty it cannot start, for that reason, and is not tried again.
    """

    def __init__(
        self,
        make_start: Callable[[str, Role, str], PeerStart],
        started: Callable[[str, str, Role], None],
        ended: Callable[[str, str], None],
    ) -> None:
        self._make_start, self._started, self._ended = make_start, started, ended
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOAD])
        self._children: dict[str, _Child] = {}
        self._numbers: dict[Role, int] = {}

    def add(self, role: Role) -> str:
        """Start one more peer of a role; its name."""
        number = self._numbers.get(role, 0) + 1
        self._numbers[role] = number
        name = f"{role}-{number}"
        self._spawn(name, role, deaths=0)
        return name

    def serves(self, name: str) -> None:
        """The peer has come so far that it can take requests."""
        if name in self._children:
            self._children[name].deaths = 0
            self._children[name].served = True

    def _spawn(self, name: str, role: Role, deaths: int, served: bool = False) -> None:
        identity = f"{name}/{secrets.token_hex(8)}"
        start = self._make_start(name, role, identity)
        self._started(name, identity, role)
        hears, says = self._context.Pipe(duplex=False)
        process = self._context.Process(target=run, args=(start, says), name=name, daemon=True)
        process.start()
        says.close()
        self._children[name] = _Child(start, process, hears, deaths=deaths, served=served)
        asyncio.get_running_loop().add_reader(process.sentinel, self._over, name, process)

    def _over(self, name: str, process: ForkServerProcess) -> None:
        asyncio.get_running_loop().remove_reader(process.sentinel)
        process.join()
        child = self._children.pop(name)
        code = process.exitcode
        process.close()
        why = _last_words(child.last_words)
        if not child.wanted:
            log.info("%s has left", name)
            self._ended(name, "")
            return
        deaths = child.deaths + 1
        if why and child.served and deaths < MOST_DEATHS:
            # What is missing may come back: memory that others still map, a disk of the network.
            log.warning("%s cannot start: %s", name, why)
            why = ""
        if not why and deaths >= MOST_DEATHS:
            why = f"it has ended {deaths} times before it could serve ({_why(code)})"
        if not why:
            log.warning("%s ended (%s)", name, _why(code))
        self._ended(name, why)
        if not why:
            self._spawn(name, child.start.role, deaths, child.served)

    def let_go(self, name: str) -> None:
        """When this peer ends, it is not to be replaced."""
        self._children[name].wanted = False

    def kill(self, name: str) -> None:
        """End a peer at once, if it has not ended."""
        if name in self._children:
            self._children[name].process.kill()

    def names(self, role: Role) -> list[str]:
        """Peers of a role that are wanted, oldest first."""
        wanted = (n for n, c in self._children.items() if c.wanted and c.start.role == role)
        return sorted(wanted, key=lambda name: int(name.rsplit("-", 1)[1]))

    def pid(self, name: str) -> int:
        return self._children[name].process.pid or 0

    async def stop(self, within_s: float) -> None:
        """Wait for all to leave (they were told to); after `within_s` end them."""
        for child in self._children.values():
            child.wanted = False
        end = time.monotonic() + within_s
        while self._children and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for child in self._children.values():
            child.process.kill()
        while self._children:
            await asyncio.sleep(0.02)


def _last_words(connection: Connection) -> str:
    """What a process that has ended said of it; empty when it said nothing."""
    with connection:
        try:
            return str(connection.recv())
        except (EOFError, OSError):
            return ""


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit code {code}"
