from __future__ import annotations

import re
from pathlib import Path

import pytest

from silva.errors import ConfigError
from silva.supernode.hardware import load_hardware, read_hardware
from silva.supernode.sourced import SPECS, spec_file, spec_names
from silva.supernode.system import load_system, read_system

MACHINES = spec_names()


def edited(tmp_path: Path, old: str, new: str) -> Path:
    """CloudMatrix384 with one line changed; `old` is a regular expression."""
    text, count = re.subn(old, new, (SPECS / "cloudmatrix384.toml").read_text(), flags=re.MULTILINE)
    assert count == 1
    path = tmp_path / "machine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", MACHINES)
def test_every_figure_has_a_source(name: str) -> None:
    read = read_hardware(name)
    assert read.spec.name == name
    assert len(read.sources) > 60
    assert all(read.sources.values())


def test_counts_of_the_supernode_follow() -> None:
    hw = load_hardware("cloudmatrix384")
    assert (hw.dies_per_node, hw.dies) == (16, 768)
    nodes, switches = hw.supernode.nodes, hw.switches
    assert nodes * hw.node.packages == 384
    assert nodes * hw.node.cpus == 192
    assert nodes * switches.first_tier_per_node == 336
    assert switches.planes * switches.second_tier_per_plane == 112
    uplink = switches.first_tier_per_node * switches.first_tier_uplink_gbps
    assert uplink == hw.dies_per_node * hw.scale_up.nominal_gbps == 3136
    assert switches.ports_per_second_tier * switches.port_gbps * 112 == nodes * uplink
    racks = nodes / hw.supernode.nodes_per_rack + hw.supernode.communication_racks
    assert racks == 16


def test_a_new_machine_is_a_new_file(tmp_path: Path) -> None:
    path = edited(tmp_path, r"^memory_gbps = \{ value = 1600.0", "memory_gbps = { value = 3200.0")
    assert load_hardware(str(path)).die.memory_gbps == 3200.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"^memory_gb = .*\n", "", "die.memory_gb: is missing"),
        (r"^memory_gb = \{ value = 64.0", "memory_gb = { value = -64.0", "-64.0 is out of range"),
        (r"^memory_gb = \{ value = 64.0", "memory_gb = { value = 0.0", "0.0 is out of range"),
        (r"^memory_gb = \{ value = 64.0", 'memory_gb = { value = "x"', "'x' is not a number"),
        (r"^memory_gb = .*", "memory_gb = 64.0", "a figure without its source"),
        (r"^memory_gb = .*", "memory_gb = { value = 64.0 }", "a figure without its source"),
        (r"^memory_gb = .*", 'memory_gb = { value = 1.0, source = " " }', "without its source"),
        (r"^memory_gb = .*", 'memory_gb = { value = 1.0, source = "P", x = 1 }', "not x"),
        (r"^memory_gb = ", "memory_gbb = ", "did you mean die.memory_gb"),
        (r"    \[8, 146, 125\],", "    [8, 146],", "row 1 has not one figure"),
        (r"    \[8, 146, 125\],", "    [8, 146, -125],", "a negative figure"),
        (r'columns = \["rows", "columns"\]', 'columns = "rows"', "lists of rows and columns"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_hardware(str(edited(tmp_path, old, new)))


def test_a_name_that_nothing_has() -> None:
    with pytest.raises(ConfigError, match="did you mean cloudmatrix384"):
        load_hardware("cloudmatrix38")
    with pytest.raises(ConfigError, match="known: "):
        spec_file("../systems/xdeepserve")


@pytest.mark.parametrize("name", spec_names("systems"))
def test_systems_name_machines_and_models_that_exist(name: str) -> None:
    assert all(read_system(name).sources.values())
    system = load_system(name)
    if name == "silva-serve":  # its machine is the one that `silva profile` measures
        with pytest.raises(ConfigError, match=r"here\.toml: no such file"):
            _ = system.machine
        assert system.network.name == "smollm2"
        return
    assert system.machine.name in MACHINES
    assert system.network.name == "deepseek-r1"
    assert system.decode.dies <= system.machine.dies
