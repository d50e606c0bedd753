"""How much of a file is in memory: in the system's page cache, from where every process maps it."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path


def resident_bytes(path: Path) -> int | None:
    """Bytes of the file that can be mapped without a disk, in whole pages; None where not known.

    The system answers truly for files of this user only (Linux, mincore); others count as resident.
    """
    size = path.stat().st_size
    if not size:
        return 0
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    # A private mapping that nobody touches brings nothing into memory.
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        try:
            mincore = ctypes.CDLL(None, use_errno=True).mincore
            where = ctypes.c_void_p(ctypes.addressof(first))
            if mincore(where, ctypes.c_size_t(size), found):
                return None
        except AttributeError:  # a system without it
            return None
        finally:
            del first
    inside = sum(page & 1 for page in found)
    return min(size, inside * mmap.PAGESIZE)
