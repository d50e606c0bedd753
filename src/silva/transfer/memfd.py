"""Memory without a name in any folder: a memfd that its process made, and others map. Linux only.

It is gone with the process and the last mapping. Others open it through /proc/<pid>/fd and know it
by its name, which holds something random. It is sealed: it cannot shrink, so nobody faults on a
missing page.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import weakref

_F_SEAL_FUTURE_WRITE = 0x10
"""From <linux/fcntl.h>; Python names it from 3.12 on. Linux 5.1."""


def create(name: str, size: int, *, shared_writing: bool) -> tuple[int, mmap.mmap]:
    """A descriptor and a writable mapping of `size` bytes that are zero.

    Without `shared_writing` this is the only mapping that can be written. Raises OSError,
    OverflowError or ValueError when the memory cannot be had.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        mapping = mmap.mmap(descriptor, size)
        # After the owner's mapping: the seal may refuse every writable one from here on.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals(shared_writing))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, mapping


def attach(pid: int, descriptor: int, name: str, size: int, *, shared_writing: bool) -> mmap.mmap:
    """Map what another process made by the same arguments; without `shared_writing` to read.

    Raises FileNotFoundError when something else has that descriptor, OSError when it cannot be
    opened, and ValueError when it is not sealed, or of another size.
    """
    link = f"/proc/{pid}/fd/{descriptor}"
    # The link is read before it is opened: opening some files has effects.
    _check_name(link, name)
    way = os.O_RDWR if shared_writing else os.O_RDONLY
    opened = os.open(link, way | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_name(f"/proc/self/fd/{opened}", name)
        seals = _seals(shared_writing)
        if fcntl.fcntl(opened, fcntl.F_GET_SEALS) & seals != seals:
            raise ValueError("the memory is not sealed")
        if os.fstat(opened).st_size != size:
            raise ValueError("the memory is of another size")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if shared_writing else 0)
        return mmap.mmap(opened, size, mmap.MAP_SHARED, protection)
    finally:
        os.close(opened)


class Process:
    """Another process, known by a descriptor: its number may go to the next one. OSError."""

    def __init__(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._pidfd)

    def ended(self) -> bool:
        """Whether it has ended."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))


def _seals(shared_writing: bool) -> int:
    size_seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    return size_seals if shared_writing else size_seals | _F_SEAL_FUTURE_WRITE


def _check_name(link: str, name: str) -> None:
    if os.readlink(link) != f"/memfd:{name} (deleted)":
        raise FileNotFoundError(f"{link} is something else")
