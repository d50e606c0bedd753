"""Words of shared memory that ranks raise and wait for: written last, waited for asleep.

flags = flags_for("auto")
flags.post(address, [7, 1, 2])                     # 1 and 2 are there for whoever sees the 7
late = flags.missing([one, another], 7, 0.05)      # which of them do not hold a 7 in time
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

from silva.errors import MissingExtraError, ServingError
from silva.experts import futex
from silva.kernels import native
from silva.kernels.native import REMEDY, Backend

WORD_BYTES = 4


class Flags(Protocol):
    """Words are unsigned, 32 bits, and lie at an address of this process."""

    def post(self, address: int, words: Sequence[int]) -> None:
        """Write words one after the other, the first one last, and wake who waits for it."""
        ...

    def missing(self, addresses: Sequence[int], number: int, seconds: float) -> list[int]:
        """Sleep until the words at all addresses are `number`; which, by place, are not in time."""
        ...


def flags_for(backend: Backend = "auto") -> Flags:
    """`auto`: compiled where that can be. Raises MissingExtraError where `native` cannot be had,
    ServingError where nothing can.
    """
    module = None
    if backend != "portable" and platform.system() == "Linux":
        module = native.compiled()
    if module is not None:
        return NativeFlags(module)
    if backend == "native":
        raise MissingExtraError("the native module was not built for this system", remedy=REMEDY)
    if not futex.supported():
        raise ServingError("without a compiled module, experts are exchanged on x86-64 Linux alone")
    return PortableFlags()


class NativeFlags:
    """With the barriers that every processor needs (silva/kernels/exchange.cpp)."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def post(self, address: int, words: Sequence[int]) -> None:
        self._module.flags_post(address, [word % 2**32 for word in words])

    def missing(self, addresses: Sequence[int], number: int, seconds: float) -> list[int]:
        return self._module.flags_missing(list(addresses), number, seconds)


class PortableFlags:
    """For processors that let all see stores in their order: see futex.py."""

    def post(self, address: int, words: Sequence[int]) -> None:
        there = (ctypes.c_uint32 * len(words)).from_address(address)
        for n in range(len(words) - 1, -1, -1):
            there[n] = words[n] % 2**32
        futex.wake(address)

    def missing(self, addresses: Sequence[int], number: int, seconds: float) -> list[int]:
        end_s, late = time.monotonic() + seconds, []
        for n, address in enumerate(addresses):
            word = ctypes.c_uint32.from_address(address)
            while (found := word.value) != number % 2**32:
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    late.append(n)
                    break
                futex.wait(address, found, left_s)
        return late
