"""Ctrl-C that is not lost, whatever the interpreter was doing when it came."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def heeded() -> Iterator[Callable[[], None]]:
    """Yields what long work calls now and then: it raises KeyboardInterrupt once Ctrl-C has come.

    The interpreter raises it at once, too. But within a finaliser or a callback, where nobody could
    catch it, it prints the exception and forgets it, and the work would go on to its end. Another
    handler than Python's own stays.
    """
    asked = threading.Event()

    def raise_and_remember(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.default_int_handler(number, frame)

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, raise_and_remember)
    try:
        yield check
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
