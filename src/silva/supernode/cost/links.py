"""Transfers on the planes: point to point, collectives, the memory pool, hand-over, storage."""

from __future__ import annotations

from silva.supernode.cost.operator import Op
from silva.supernode.hardware import GIGA, MICRO, MILLI, Hardware


def point_to_point_s(hw: Hardware, moved_bytes: float, same_node: bool, read: bool) -> float:
    """One die reads from or writes to another over the scale-up plane (paper, Table 1)."""
    up = hw.scale_up
    if same_node:
        rate, first = (
            (up.node_read_gbps, up.node_read_us) if read else (up.node_write_gbps, up.node_write_us)
        )
    else:
        rate, first = (up.read_gbps, up.read_us) if read else (up.write_gbps, up.write_us)
    return first * MICRO + moved_bytes / (rate * GIGA)


def collective_op(hw: Hardware, name: str, received_bytes: float, ranks: int) -> Op:
    """All-gather or all-to-all: each die receives so many bytes from `ranks` peers, itself included.

    The links are written at the rate of point-to-point writes; a group inside one node is as fast as
    the node's own links. Nothing for one rank alone.
    """
    if ranks <= 1:
        return Op(name, "link", 0.0)
    inside = ranks <= hw.dies_per_node
    rate = hw.scale_up.node_write_gbps if inside else hw.scale_up.write_gbps
    moving = received_bytes * (ranks - 1) / ranks / (rate * GIGA)
    return Op(name, "link", hw.static.collective_us * MICRO + moving)


def all_reduce_op(hw: Hardware, tensor_bytes: float, ranks: int) -> Op:
    """Reduce-scatter and all-gather of a tensor that every rank holds."""
    return collective_op(hw, "all-reduce", 2.0 * tensor_bytes, ranks)


def pool_read_s(hw: Hardware, tokens: float, token_bytes: float, plane: str) -> float:
    """Seconds until one die has read so many cached tokens of the pool over a plane.

    "ub": the die reads the other nodes' memory itself. "vpc": one card a node, shared by its dies,
    at the share of the nominal rate that the measured plane achieves, and the CPUs copy what comes.
    Either way the host asks for block after block.
    """
    if tokens <= 0.0:
        return 0.0
    moved, blocks = tokens * token_bytes, tokens / hw.pool.block_tokens
    asking = blocks * hw.pool.block_ms * MILLI
    reading = moved / (hw.pool.read_gbps * GIGA)
    if plane == "ub":
        return asking + blocks * hw.pool.read_us * MICRO + reading
    node = moved * hw.dies_per_node / GIGA
    wire = node / (hw.vpc.node_gbps * hw.fitted.network)
    return asking + wire + node / hw.vpc.copy_gbps + reading


def hand_over_s(hw: Hardware, cache_bytes: float) -> float:
    """A prompt's cache from one die of prefill to one of decode, over the scale-out plane."""
    return cache_bytes / (hw.scale_out.die_gbps * hw.fitted.network * GIGA)


def storage_s(hw: Hardware, moved_bytes: float, readers: float = 1.0) -> float:
    """Seconds until each of `readers` has so many bytes of one bucket, which they share."""
    return readers * moved_bytes / (hw.storage.object_gbps * hw.fitted.network * GIGA)


def warm_load_s(hw: Hardware, moved_bytes: float) -> float:
    """A model from DRAM to the dies of an instance, out of one CPU socket's memory.

    The socket's nominal link at the share of it that the measured plane achieves; the paper's
    Table 2 tells one time for local and for pooled memory.
    """
    return moved_bytes / (hw.node.cpu_link_gbps * hw.fitted.network * GIGA)
