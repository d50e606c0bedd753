"""Waiting for a word of shared memory to change, asleep; waking who waits for it.

Linux on x86-64 only, whose processors let all see one core's stores in the order in which they were
made: who sees a word sees what was written before it. Others need barriers that Python lacks.

The system's own call (man 2 futex): a waiter sleeps in the kernel until somebody writes the word
and wakes it, so a rank that waits leaves its core to the others.
"""

from __future__ import annotations

import ctypes
import errno
import platform

_NUMBER = 202
"""Of the call, on x86-64."""
_WAIT, _WAKE = 0, 1
_EVERYBODY = 2**31 - 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def supported() -> bool:
    """Whether this machine has the call, and keeps stores in order."""
    return platform.system() == "Linux" and platform.machine() == "x86_64"


def wait(address: int, value: int, timeout_s: float) -> None:
    """Sleep while the 32-bit word at `address` holds `value`, at most `timeout_s`.

    Returns early now and then: the caller looks again. Other threads run meanwhile.
    """
    limit = _Timespec(int(timeout_s), int(timeout_s % 1 * 1e9))
    _call(address, _WAIT, value, ctypes.byref(limit))


def wake(address: int) -> None:
    """Wake everybody who waits for the word at `address`, in any process."""
    _call(address, _WAKE, _EVERYBODY, None)


def _call(address: int, operation: int, value: int, limit: object) -> None:
    result = _libc.syscall(
        _NUMBER,
        ctypes.c_void_p(address),
        operation,
        ctypes.c_uint32(value),
        limit,
        None,
        0,
    )
    if result < 0 and (code := ctypes.get_errno()) not in (
        errno.EAGAIN,
        errno.ETIMEDOUT,
        errno.EINTR,
    ):
        raise OSError(code, "futex")
