"""Memory of one rank that the other ranks write into: tokens and answers arrive here.

It is a memfd (`silva.transfer.memfd`) of the rank's own, which all may map and write into.
Every rank writes only into the parts that are its own: one that was taken for dead and comes back
spoils nothing that is read, since its parts are given to another process only when it has ended.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from silva.errors import ServingError
from silva.transfer import memfd
from silva.transfer.base import TOKEN_BYTES


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
        try:
            descriptor, mapping = memfd.create(_name(token), size, shared_writing=True)
        except (OSError, OverflowError, ValueError) as error:
            raise ServingError(
                f"{size} bytes for the exchange of experts cannot be had ({error})",
                remedy="use fewer tokens a round",
            ) from error
        # The descriptor stays open as long as this lives: it is the way in for the others.
        weakref.finalize(self, os.close, descriptor)
        super().__init__(mapping)
        self.member = Member(rank, os.getpid(), descriptor, size, token)


class Private(Memory):
    """Memory of the same kind that no other process sees, zero at first."""

    def __init__(self, size: int) -> None:
        super().__init__(mmap.mmap(-1, size))


class PeerMemory(Memory):
    """Another rank's memory. Raises ServingError when that rank is gone."""

    def __init__(self, member: Member) -> None:
        try:
            # The process first: whoever owns what is opened next is this very one.
            self._process = memfd.Process(member.pid)
            name = _name(member.token)
            mapping = memfd.attach(
                member.pid, member.descriptor, name, member.size, shared_writing=True
            )
        except (OSError, ValueError) as error:
            raise ServingError(f"rank {member.rank} cannot be reached ({error})") from error
        super().__init__(mapping)

    def alive(self) -> bool:
        """Whether the rank's process has not ended."""
        return not self._process.ended()


def _name(token: bytes) -> str:
    return f"silva-experts-{token.hex()}"
