"""Work that waits for others, on a few threads: in order and one at a time for each of them.

Whoever does not answer holds up one thread and what else is meant for it, never the others.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

from silva.serving.process_name import show_thread_as

log = logging.getLogger("silva.lanes")


class Lanes:
    """See the module. May be used by several threads at once."""

    def __init__(self, threads: int, name: str) -> None:
        """`threads`: so many less one that do not answer hold up nobody else. The system shows them
        by `name`.
        """
        self._pool = ThreadPoolExecutor(threads, name, initializer=show_thread_as, initargs=(name,))
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[Callable[[], None]]] = {}
        """What waits, by lane; a lane is there as long as something of it runs or is about to."""
        self._closed = False

    def run(self, lane: Hashable, work: Callable[[], None]) -> None:
        """Call `work()` once all is done that this lane was given before."""
        with self._lock:
            if self._closed:
                return
            if lane in self._waiting:
                self._waiting[lane].append(work)
                return
            self._waiting[lane] = deque()
            self._pool.submit(self._turn, lane, work)

    def close(self) -> None:
        """Returns once nothing runs; what waits is dropped."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(cancel_futures=True)

    def _turn(self, lane: Hashable, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            log.exception("work for another peer failed")
        with self._lock:
            waiting = self._waiting[lane]
            if waiting and not self._closed:
                self._pool.submit(self._turn, lane, waiting.popleft())
            else:
                del self._waiting[lane]
