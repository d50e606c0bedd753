"""Starts the processes of the peers, notices when one ends, and replaces it.

Processes are forked from a server process that has imported torch and run nothing
(multiprocessing's forkserver), so that a new peer is there in the time it takes to map the weights.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from silva.serving.forked import CODE_S, Forked, end_server
from silva.serving.peers.start import PeerStart, run
from silva.serving.wire.messages import Role

log = logging.getLogger("silva.supervisor")

MOST_DEATHS = 5
"""A peer that dies so often in a row before it could serve is not started again: it would die again.
Nor is one that never served and that no process could be had for so often in a row.
"""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Before it is tried again to have a process, or one whose settings are right says that it cannot
start: doubled from time to time, as the machine is short of something.
"""


@dataclass
class _Child:
    """A peer by its name, through all the processes that it has had."""

    name: str
    role: Role
    process: Forked | None = None
    """The one that runs now."""
    deaths: int = 0
    """Deaths in a row before it could serve."""
    failures: int = 0
    """How often in a row no process could be had."""
    served: bool = False
    """Whether it could serve once: then its settings are right."""
    serves: bool = False
    """Its present process does."""
    doomed: bool = False
    """The process that is just being forked is to be ended."""
    late: bool = False
    """Its present process was ended because it did not serve in time."""
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """All peer processes of one server, on one event loop, which never waits for a fork.

    `started(name, identity, role)` is called before a process starts, `ended(name, why)` after it
    has ended, or could not be had: where `why` is not empty the peer cannot start, for that reason,
    and is not tried again. A process that does not serve within `start_s` seconds counts as dead; so
    does the one that peers are forked from, where it forks none within as many.
    """

    def __init__(
        self,
        make_start: Callable[[str, Role, str], PeerStart],
        started: Callable[[str, str, Role], None],
        ended: Callable[[str, str], None],
        start_s: float,
    ) -> None:
        self._make_start, self._started, self._ended = make_start, started, ended
        self._start_s = start_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forks")
        self._forking = asyncio.Lock()
        self._children: dict[str, _Child] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers: dict[Role, int] = {}

    def add(self, role: Role) -> str:
        """Start one more peer of a role; its name."""
        number = self._numbers.get(role, 0) + 1
        self._numbers[role] = number
        child = _Child(f"{role}-{number}", role)
        self._children[child.name] = child
        task = asyncio.get_running_loop().create_task(self._keep(child, self._expect(child)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return child.name

    def serves(self, name: str) -> None:
        """The peer has come so far that it can take requests."""
        child = self._children.get(name)
        if child is not None:
            child.deaths, child.served, child.serves = 0, True, True

    def _expect(self, child: _Child) -> PeerStart:
        identity = f"{child.name}/{secrets.token_hex(8)}"
        start = self._make_start(child.name, child.role, identity)
        child.doomed = child.serves = child.late = False
        self._started(child.name, identity, child.role)
        return start

    async def _keep(self, child: _Child, start: PeerStart) -> None:
        """Have a process for a peer, again and again, until it is not wanted or cannot start."""
        try:
            while True:
                try:
                    why, pause_s = self._dead(child, *await self._live(child, start))
                except Exception as error:  # a defect too: the hub waits for it
                    why, pause_s = self._unborn(child, error)
                self._ended(child.name, why)
                with suppress(TimeoutError):
                    if pause_s:
                        await asyncio.wait_for(child.unwanted.wait(), pause_s)
                if why or child.unwanted.is_set():
                    return
                start = self._expect(child)
        finally:
            del self._children[child.name]

    async def _live(self, child: _Child, start: PeerStart) -> tuple[int | None, str]:
        """One process from its fork to its end: exit code and last words. OSError, EOFError: none."""
        loop = asyncio.get_running_loop()
        child.process = process = await self._fork(child, start)
        child.failures = 0
        if child.doomed:
            process.kill()
        late = loop.call_later(self._start_s, self._late, child, process)
        try:
            await process.ended()
        finally:
            late.cancel()
            child.process = None
        return await loop.run_in_executor(self._thread, process.how)

    async def _fork(self, child: _Child, start: PeerStart) -> Forked:
        """One at a time: the time of the server process begins when it is asked, not in a queue."""
        loop = asyncio.get_running_loop()
        async with self._forking:
            if child.unwanted.is_set():
                raise ChildProcessError("it is not wanted any more")
            late = loop.call_later(self._start_s, self._stuck)
            try:
                return await loop.run_in_executor(self._thread, Forked, run, start)
            finally:
                late.cancel()

    def _stuck(self) -> None:
        log.error(
            "the process that peers are forked from is ended: it has forked none within %g s",
            self._start_s,
        )
        end_server()

    def _late(self, child: _Child, process: Forked) -> None:
        if not child.serves:
            log.error("%s is ended: it could not serve within %g s", child.name, self._start_s)
            child.late = True
            process.kill()

    def _dead(self, child: _Child, code: int | None, said: str) -> tuple[str, float]:
        """Why a peer whose process has ended cannot start; empty: it has left, or is to be replaced
        in so many seconds.
        """
        if child.unwanted.is_set():
            log.info("%s has left", child.name)
            return "", 0.0
        child.deaths += 1
        how = f"not within {self._start_s:g} s: see serve.start_s" if child.late else _how(code)
        if not said and child.deaths < MOST_DEATHS:
            log.warning("%s ended (%s)", child.name, how)
            return "", 0.0
        if child.served and child.deaths < MOST_DEATHS:
            # What is missing may come back: memory that others still map, a disk of the network.
            pause_s = _pause_s(child.deaths)
            log.warning("%s cannot start (%s), next try in %.0f s", child.name, said, pause_s)
            return "", pause_s
        return said or f"it has ended {child.deaths} times before it could serve ({how})", 0.0

    def _unborn(self, child: _Child, error: Exception) -> tuple[str, float]:
        """Why a peer without a process cannot start; else in how many seconds it is tried again."""
        if child.unwanted.is_set():
            return "", 0.0
        child.failures += 1
        match error:
            case OSError():
                what = error.strerror or str(error)
            case EOFError():
                what = "the process to fork from has died"
            case _:
                what = repr(error)
        if not child.served and child.failures >= MOST_DEATHS:
            return f"no process can be had for it ({what})", 0.0
        pause_s = _pause_s(child.failures)
        log.warning(
            "no process can be had for %s (%s), next try in %.0f s", child.name, what, pause_s
        )
        return "", pause_s

    def let_go(self, name: str) -> None:
        """When this peer ends, it is not to be replaced."""
        self._children[name].unwanted.set()

    def kill(self, name: str) -> None:
        """End a peer at once, if it has not ended."""
        child = self._children.get(name)
        if child is not None and child.process is not None:
            child.process.kill()
        elif child is not None:
            child.doomed = True

    def names(self, role: Role) -> list[str]:
        """Peers of a role that are wanted, oldest first; those too that have no process just now."""
        wanted = (
            child.name
            for child in self._children.values()
            if child.role == role and not child.unwanted.is_set()
        )
        return sorted(wanted, key=lambda name: int(name.rsplit("-", 1)[1]))

    def present(self) -> list[str]:
        """All peers: those too that have no process, or are to leave."""
        return list(self._children)

    def roles(self) -> Counter[Role]:
        """How many peers there are of each role: those too that have no process, or are to leave."""
        return Counter(child.role for child in self._children.values())

    async def stop(self, within_s: float) -> None:
        """Wait for all to leave (they were told to); after `within_s` end them."""
        for name in self._children:
            self.let_go(name)
        end = time.monotonic() + within_s
        while self._children and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for name in self._children:
            self.kill(name)
        # It may have been stopped: whoever waits for a fork of it would wait for ever.
        stuck = asyncio.get_running_loop().call_later(CODE_S, end_server)
        while self._children:
            await asyncio.sleep(0.02)
        stuck.cancel()
        self._thread.shutdown(wait=False)


def _pause_s(times: int) -> float:
    """Before the next try, after so many in vain."""
    return min(FIRST_PAUSE_S * 2.0 ** min(times - 1, 64), LONGEST_PAUSE_S)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return "exit code unknown" if code is None else f"exit code {code}"
