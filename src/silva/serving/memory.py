"""Whether the machine has the memory that peers are told to take.

Memory that is mapped is not taken before it is written: the kernel promises more than there is, and
ends a process hours later, when blocks fill it. So it is counted before a peer is started.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from silva.errors import ConfigError
from silva.serving.config import GIB, ServeConfig
from silva.serving.spread import computing_peers

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

_FILES = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Limit, use, and how names in memory.stat begin: control groups of version 2, and of version 1."""


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """What this process and its children can still take, without swap: by the machine, and by each
    of the control groups they are in. Where the system does not say it, more than anybody has.
    """
    return min([*_of_machine(proc), *_of_groups(proc, cgroups)], default=sys.maxsize)


def _of_machine(proc: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _of_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root = cgroups / controllers
                group = root / path.lstrip("/")
                # In a container the path may be the host's: then only the root is there, its own.
                for place in (group, *group.parents):
                    yield from _of_group(place)
                    if place == root:
                        break


def _of_group(place: Path) -> Iterator[int]:
    for limit, used, prefix in _FILES:
        with contextlib.suppress(OSError, ValueError):  # such as "max": there is no limit
            most = int((place / limit).read_text())
            yield max(0, most - int((place / used).read_text()) + _cached(place, prefix))


def _cached(place: Path, prefix: str) -> int:
    """Bytes of files that the kernel gives up when memory is short, but counts as used."""
    wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
    with contextlib.suppress(OSError, ValueError):
        pairs = map(str.split, (place / "memory.stat").read_text().splitlines())
        return sum(int(number) for name, number in pairs if name in wanted)
    return 0


def check_memory(config: ServeConfig, *, computing: int, cache: int, room_bytes: int) -> None:
    """ConfigError when so many peers may take more than `room_bytes`; it names the larger share."""
    kv, adapters = config.kv, config.adapter_bytes if config.forest else 0
    blocks, tier = computing * (kv.peer_bytes + adapters), cache * kv.cache_ram_bytes
    if blocks + tier <= room_bytes:
        return
    where, flag = ("peer_bytes", "--kv") if blocks >= tier else ("cache_ram_bytes", "--cache-ram")
    held = "blocks and adapters" if adapters else "blocks"
    what = (
        f"the {held} of {computing} computing peers and the RAM tiers of {cache} cache peers may "
        f"take {_gib(blocks + tier)}, {_gib(room_bytes)} can be had"
    )
    raise ConfigError(what, where=f"serve.kv.{where}", remedy=f"ask for less with {flag}")


def check_start(config: ServeConfig) -> None:
    """ConfigError when the machine does not have what the peers of a configuration may take."""
    every = computing_peers(config), config.pools.cache
    computing, cache = (1, 0) if config.colocated else every
    check_memory(config, computing=computing, cache=cache, room_bytes=available_bytes())


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:,.2f} GiB"
