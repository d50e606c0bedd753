"""Memory that is not there is refused before anybody takes it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from silva.config import build
from silva.errors import ConfigError
from silva.serving.config import ServeConfig
from silva.serving.launch import LaunchConfig, launch
from silva.serving.memory import available_bytes, check_start

MIB = 1 << 20
MACHINE = 8192 * MIB


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Folders in place of /proc and /sys/fs/cgroup, of a machine that has 8 GiB left."""
    write(tmp_path / "proc" / "meminfo", f"MemTotal: 1 kB\nMemAvailable:  {MACHINE // 1024} kB\n")
    (tmp_path / "groups").mkdir()
    return tmp_path


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def available(system: Path) -> int:
    return available_bytes(system / "proc", system / "groups")


def test_without_a_group_the_machine_counts(system: Path) -> None:
    assert available(system) == MACHINE
    write(system / "proc" / "self" / "cgroup", "9:name=systemd:/\n0::/nowhere")
    assert available(system) == MACHINE


def test_this_machine_says_what_it_has() -> None:
    assert 0 < available_bytes() <= psutil.virtual_memory().total


def test_a_system_that_says_nothing_refuses_nothing(tmp_path: Path) -> None:
    assert available(tmp_path) == sys.maxsize


@pytest.mark.parametrize("limited", ["app", ""])
def test_the_tightest_of_nested_groups_counts(system: Path, limited: str) -> None:
    write(system / "proc" / "self" / "cgroup", "0::/app/serve")
    for path in ("app/serve", "app", ""):
        write(system / "groups" / path / "memory.max", "max")
        write(system / "groups" / path / "memory.current", 5 * MIB)
    write(system / "groups" / limited / "memory.max", 100 * MIB)
    write(system / "groups" / limited / "memory.current", 70 * MIB)
    assert available(system) == 30 * MIB
    # files that are cached are given up when memory is short, shared memory is not
    stat = f"file {60 * MIB}\nshmem {20 * MIB}\ninactive_file {30 * MIB}\nactive_file {10 * MIB}"
    write(system / "groups" / limited / "memory.stat", stat)
    assert available(system) == 70 * MIB


def test_groups_of_the_first_version(system: Path) -> None:
    write(system / "proc" / "self" / "cgroup", "7:cpu:/a\n4:memory:/of/the/host\n0::/")
    root = system / "groups" / "memory"
    write(root / "memory.limit_in_bytes", 64 * MIB)
    write(root / "memory.usage_in_bytes", 80 * MIB)
    assert available(system) == 0
    write(root / "memory.stat", f"inactive_file 1\ntotal_inactive_file {20 * MIB}")
    assert available(system) == 4 * MIB


def config(**changes: Any) -> ServeConfig:
    kv = {"peer_bytes": 3 * MIB, "cache_ram_bytes": 5 * MIB}
    pools = {"prefill": 2, "decode": 3, "cache": 4}
    return build(ServeConfig, {"kv": kv, "pools": pools, **changes}, "test")


def test_all_peers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    room = [5 * 3 * MIB + 4 * 5 * MIB]
    monkeypatch.setattr("silva.serving.memory.available_bytes", lambda: room[0])
    check_start(config())
    room[0] -= 1
    with pytest.raises(ConfigError, match=r"5 computing peers and .* 4 cache peers") as caught:
        check_start(config())
    assert caught.value.where == "serve.kv.cache_ram_bytes"
    assert caught.value.remedy == "ask for less with --cache-ram"
    check_start(config(colocated=True))
    room[0] = 3 * MIB - 1
    with pytest.raises(ConfigError, match="ask for less with --kv"):
        check_start(config(colocated=True))


@pytest.mark.parametrize("setting", ["peer_bytes", "cache_ram_bytes"])
def test_twice_what_the_machine_has_is_refused_before_anything_is_loaded(setting: str) -> None:
    much = 2 * psutil.virtual_memory().total
    tree = {"serve": {"kv": {setting: much}}}
    with pytest.raises(ConfigError, match=rf"serve\.kv\.{setting}: "):
        launch(build(LaunchConfig, tree, "test"), nullcontext(Path("nowhere")))
