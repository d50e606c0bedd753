"""Main functions of processes that are forked in tests; those import them."""

from __future__ import annotations

import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any


def waits(start: Any, last_words: Connection) -> None:
    """For a signal that it does not ignore."""
    while True:
        time.sleep(3600)


def gives_up(start: Any, last_words: Connection) -> None:
    """Says why."""
    last_words.send(f"{start.name} has no memory")
    sys.exit(7)


def says_half(start: Any, last_words: Connection) -> None:
    """It is ended in the middle of a word."""
    last_words._send(b"\0\0\0\x20")  # type: ignore[attr-defined]
    signal.raise_signal(signal.SIGKILL)
