"""Memory of one rank that the other ranks write into: tokens and answers arrive here.

It is a memfd of the rank's own, without a name in any folder, gone with the process. The others
open it through /proc/<pid>/fd and check its random name. It cannot shrink, so nobody faults on a
missing page. Every rank writes only into the parts that are its own: one that was taken for dead
and comes back spoils nothing that is read.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import secrets
import select
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from silva.errors import ServingError

TOKEN_BYTES = 16
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


@dataclass(frozen=True)
class Member:
    """Where a rank's memory is. A plain value that the ranks send each other."""

    rank: int
    pid: int
    descriptor: int
    size: int
    token: bytes


class Memory:
    """A mapping of a rank's memory, one's own or another's; `bytes` is a uint8 tensor over it."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.bytes: Tensor = torch.frombuffer(mapping, dtype=torch.uint8)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))


class OwnMemory(Memory):
    """This rank's memory, zero at first. `member` is what the others need to write into it."""

    def __init__(self, rank: int, size: int) -> None:
        token = secrets.token_bytes(TOKEN_BYTES)
        descriptor = os.memfd_create(_name(token), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # The descriptor stays open as long as this lives: it is the way in for the others.
        weakref.finalize(self, os.close, descriptor)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            super().__init__(mmap.mmap(descriptor, size))
        except OSError as error:
            raise ServingError(
                f"{size} bytes for the exchange of experts cannot be had ({error})",
                remedy="use fewer tokens a round",
            ) from error
        self.member = Member(rank, os.getpid(), descriptor, size, token)


class PeerMemory(Memory):
    """Another rank's memory. Raises ServingError when that rank is gone."""

    def __init__(self, member: Member) -> None:
        try:
            # The pidfd first: whoever owns what is opened next is this very process.
            self._pidfd = os.pidfd_open(member.pid)
            weakref.finalize(self, os.close, self._pidfd)
            super().__init__(_map(member))
        except OSError as error:
            raise ServingError(f"rank {member.rank} cannot be reached ({error})") from error

    def alive(self) -> bool:
        """Whether the rank's process has not ended."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)


def _map(member: Member) -> mmap.mmap:
    link = f"/proc/{member.pid}/fd/{member.descriptor}"
    # The link is read before it is opened: opening some files has effects.
    if not os.readlink(link).startswith(f"/memfd:{_name(member.token)}"):
        raise FileNotFoundError(f"{link} is something else")
    descriptor = os.open(link, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != member.size:
            raise FileNotFoundError(f"{link} has another size")
        return mmap.mmap(descriptor, member.size)
    finally:
        os.close(descriptor)


def _name(token: bytes) -> str:
    return f"silva-experts-{token.hex()}"
