"""Machines as data: dies, nodes, planes, switches, memory pool and storage, read from a spec file.

A new machine is a new file in `specs`, or anywhere. Rates are decimal gigabytes a second (`_gbps`),
one way; sizes decimal gigabytes. A GPU is a package of one die.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

from silva.errors import ConfigError
from silva.supernode.profile import Profile
from silva.supernode.sourced import Sourced, at_least, positive, read_sourced, spec_file

GIGA = 1e9
TERA = 1e12
MICRO = 1e-6
MILLI = 1e-3

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Die:
    """One compute die; a GPU is one."""

    per_package: int = positive()
    bf16_tflops: float = positive()
    low_precision_tops: float = positive()
    """Dense INT8, or FP8 where the hardware has it."""
    vector_tflops: float = positive()
    matrix_cores: int = positive()
    vector_cores: int = positive()
    memory_gb: float = positive()
    memory_gbps: float = positive()
    on_package_gbps: float = at_least(0)


@dataclass(frozen=True)
class Node:
    """One server."""

    packages: int = positive()
    cpus: int = positive()
    cpu_link_gbps: float = positive()
    """What one CPU socket gives out to dies."""
    dram_gb: float = positive()
    price: float = positive()
    """In any unit of cost, the same for all machines that are compared."""


@dataclass(frozen=True)
class Supernode:
    """How many nodes stand together."""

    nodes: int = positive()
    nodes_per_rack: int = positive()
    communication_racks: int = at_least(0)


@dataclass(frozen=True)
class Switches:
    """Two tiers: chips on each node, and planes of chips that every node reaches."""

    first_tier_per_node: int = positive()
    first_tier_uplink_gbps: float = positive()
    planes: int = positive()
    second_tier_per_plane: int = positive()
    ports_per_second_tier: int = positive()
    port_gbps: float = positive()


@dataclass(frozen=True)
class ScaleUp:
    """The plane between dies for collectives: UB, or NVLink with InfiniBand behind it."""

    nominal_gbps: float = positive()
    read_gbps: float = positive()
    write_gbps: float = positive()
    read_us: float = at_least(0)
    write_us: float = at_least(0)
    node_read_gbps: float = positive()
    node_write_gbps: float = positive()
    node_read_us: float = at_least(0)
    node_write_us: float = at_least(0)


@dataclass(frozen=True)
class ScaleOut:
    """The plane that carries finished prompts to decode: RDMA."""

    die_gbps: float = positive()


@dataclass(frozen=True)
class Vpc:
    """The plane to everything else: Ethernet."""

    node_gbps: float = positive()
    copy_gbps: float = positive()
    """What the CPUs of a node copy from buffers of the network to where dies read."""


@dataclass(frozen=True)
class Pool:
    """DRAM of all nodes as one cache, as a die reaches it."""

    read_gbps: float = positive()
    write_gbps: float = positive()
    read_us: float = at_least(0)
    write_us: float = at_least(0)
    node_read_gbps: float = positive()
    node_write_gbps: float = positive()
    block_tokens: int = positive()
    block_ms: float = at_least(0)
    """Time of the host for one block that is looked up and read."""


@dataclass(frozen=True)
class Storage:
    """Object store and block disks."""

    object_gbps: float = positive()
    disk_node_gbps: float = positive()


@dataclass(frozen=True)
class Exchange:
    """Dispatch and combine: the messages, and the links they take."""

    dispatch_bytes: float = positive()
    combine_bytes: float = positive()
    fixed_us: float = at_least(0)
    node_gbps: float = positive()
    gbps: float = positive()
    once_per_node: int = at_least(0, 1)
    """1: in prefill a token travels once to each node and is copied there."""


@dataclass(frozen=True)
class Static:
    """What starting something costs."""

    matrix_us: float = at_least(0)
    vector_us: float = at_least(0)
    collective_us: float = at_least(0)
    graph_gap_ms: float = at_least(0)
    schedule_ms: float = at_least(0)


@dataclass(frozen=True)
class Roof:
    """Shares of the peaks that sources measured."""

    attention_compute: float = at_least(1e-3, 1)
    memory: float = at_least(1e-3, 1)


@dataclass(frozen=True)
class Fitted:
    """What `silva.supernode.fit` makes of the tables; frozen here, compared by a test."""

    gemm_compute: float = at_least(1e-3, 1)
    gemm_depth: float = at_least(0)
    gemm_overlap: float = at_least(1)
    dispatch_token_us: float = at_least(0)
    dispatch_peer_us: float = at_least(0)
    combine_token_us: float = at_least(0)
    combine_peer_us: float = at_least(0)
    copy_cores: float = at_least(0)
    network: float = at_least(1e-3, 1)


@dataclass(frozen=True)
class Assumed:
    """What no source gives."""

    sort_passes: float = at_least(0)
    latent_bytes: float = positive()


@dataclass(frozen=True)
class Tables:
    """Measurements that the fit starts from; columns as the spec file names them."""

    gemm_tile: Table
    gemm: Table
    grouped: Table
    exchange: Table
    copying: Table
    bulk: Table

    def __post_init__(self) -> None:
        widths = {
            "gemm_tile": 2,
            "gemm": 5,
            "grouped": 5,
            "exchange": 4,
            "copying": 3,
            "bulk": 3,
        }
        for name, width in widths.items():
            if any(len(row) != width for row in getattr(self, name)):
                what = f"a row has not {width} figures"
                raise ConfigError(what, where=f"tables.{name}", remedy="see the specs of silva")
            if any(value < 0 for row in getattr(self, name) for value in row):
                raise ConfigError("a negative figure", where=f"tables.{name}")


@dataclass(frozen=True)
class Hardware:
    """One kind of machine."""

    name: str
    die_name: str
    die: Die
    node: Node
    supernode: Supernode
    switches: Switches
    scale_up: ScaleUp
    scale_out: ScaleOut
    vpc: Vpc
    pool: Pool
    storage: Storage
    exchange: Exchange
    static: Static
    roof: Roof
    fitted: Fitted
    assumed: Assumed
    tables: Tables
    profile: Profile | None = None
    """Steps of one model that were measured on this very machine (`silva profile`)."""

    def without_planes(self, lost: int) -> Hardware:
        """The machine where so many planes of switches are lost: what goes between nodes shares the
        rest. ConfigError where none would be left.

        Every node reaches every plane with an equal part of its links (CloudMatrix-Infer, section
        3.2), so that the rates between nodes fall in proportion; within a node nothing changes.
        """
        if not lost:
            return self
        left = 1.0 - lost / self.switches.planes
        if left <= 0:
            what = f"all {int(self.switches.planes)} planes of switches are lost"
            raise ConfigError(what, where=self.name, remedy="leave one, or no step ever ends")
        up, pool, exchange = self.scale_up, self.pool, self.exchange
        return replace(
            self,
            name=f"{self.name} without {lost} planes",
            scale_up=replace(up, read_gbps=up.read_gbps * left, write_gbps=up.write_gbps * left),
            pool=replace(pool, read_gbps=pool.read_gbps * left, write_gbps=pool.write_gbps * left),
            exchange=replace(exchange, gbps=exchange.gbps * left),
        )

    @cached_property
    def memory_bps(self) -> float:
        """Bytes a second that operators draw from a die's memory."""
        return self.die.memory_gbps * GIGA * self.roof.memory

    @cached_property
    def dies_per_node(self) -> int:
        """Dies of one node."""
        return self.node.packages * self.die.per_package

    @cached_property
    def dies(self) -> int:
        """Dies of the whole machine."""
        return self.dies_per_node * self.supernode.nodes

    @cached_property
    def tile_columns(self) -> float:
        """Columns of the output that one matrix core computes at a time."""
        return self.tables.gemm_tile[0][1]


@cache
def load_hardware(name: str) -> Hardware:
    """The machine of that name, or of a .toml file; ConfigError says what is wrong with it."""
    return read_hardware(name).spec


def read_hardware(name: str) -> Sourced[Hardware]:
    """The machine and the source of its every figure."""
    return read_sourced(Hardware, spec_file(name))
