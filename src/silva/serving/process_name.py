"""The names by which the system's tools (`ps`, `top`, `pgrep`) show a server's processes."""

from __future__ import annotations

import contextlib
from pathlib import Path

LONGEST = 15
"""Bytes that Linux keeps of a name."""
PREFIX = "silva-"


def show_as(name: str) -> None:
    """Let the system call this process silva-NAME; its main thread has to ask. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(shown(name))


def show_thread_as(name: str) -> None:
    """Let the system call the thread that asks silva-NAME (`top -H`). Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_text(shown(name))


def shown(name: str) -> str:
    """What is shown for a peer's name; the number stays whole where there is no room for all."""
    role, dash, number = name.partition("-")
    room = LONGEST - len(PREFIX) - len(dash) - len(number)
    return f"{PREFIX}{role[:room]}{dash}{number}"
