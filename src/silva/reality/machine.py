"""This machine as hardware: a die is one engine's share of the cores, a node all of them.

The sections read like those of any other machine (`silva.supernode.hardware`). What this machine
does not have stands there as a number that changes nothing, and its source says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from silva.config import build
from silva.reality.kernels import Kernels
from silva.reality.spec import Figure, Machine, Section
from silva.supernode.fit import fitted
from silva.supernode.hardware import GIGA, MICRO, MILLI, TERA, Hardware

_NONE = "there is none on this machine"
_SHM = "measured: reads through shared memory"
_TCP = "measured: reads over TCP"


def hardware_sections(
    machine: Machine, kernels: Kernels, weight_bytes: int, schedule_s: float
) -> dict[str, Section]:
    """All of a spec file but the two sections of a profile.

    weight_bytes: of a weight as it was measured. schedule_s: what a peer adds to a step.
    """
    here = f"measured, threads: {kernels.threads}"
    dies = max(1, machine.cores // kernels.threads)
    sections = {
        "die": _die(machine, kernels, dies, here),
        "node": _node(machine, kernels, dies, here),
        **_links(kernels, here),
        "static": _static(kernels, schedule_s, here),
        **_shares(kernels, here),
        "tables": _tables(kernels, weight_bytes, here),
    }
    fit = fitted(_trial(machine, sections), float(weight_bytes))
    for name in ("gemm_compute", "gemm_depth", "gemm_overlap"):
        figure = sections["fitted"][name]
        assert isinstance(figure, Figure)
        sections["fitted"][name] = Figure(getattr(fit, name), figure.source)
    return sections


def _trial(machine: Machine, sections: Mapping[str, Section]) -> Hardware:
    """The machine before its efficiencies are fitted."""
    plain = {
        name: {key: f.value if isinstance(f, Figure) else f for key, f in section.items()}
        for name, section in sections.items()
    }
    return build(Hardware, {"name": machine.name, "die_name": machine.processor, **plain}, "")


def _same(value: float, source: str, *names: str) -> Section:
    return {name: Figure(value, source) for name in names}


def _die(machine: Machine, k: Kernels, dies: int, here: str) -> Section:
    peak = k.peak_flops / TERA
    return {
        "per_package": Figure(1, "a die is one engine's share of the cores"),
        "bf16_tflops": Figure(peak, f"{here}: the fastest product"),
        "low_precision_tops": Figure(peak, f"{here}: the fastest product; no other type is used"),
        "vector_tflops": Figure(k.vector_flops / TERA, f"{here}: within the first cache"),
        **_same(k.threads, "threads of an engine", "matrix_cores", "vector_cores"),
        "memory_gb": Figure(machine.memory_bytes / GIGA / dies, "the memory over the engines"),
        "memory_gbps": Figure(k.memory_bps / GIGA, f"{here}: what reads fastest"),
        "on_package_gbps": Figure(0.0, "one die a package"),
    }


def _node(machine: Machine, k: Kernels, dies: int, here: str) -> Section:
    return {
        "packages": Figure(dies, "cores over threads of an engine"),
        "cpus": Figure(1, "the dies are the processor"),
        "cpu_link_gbps": Figure(k.copy_bps / GIGA, f"{here}: copying a large vector"),
        "dram_gb": Figure(machine.memory_bytes / GIGA, "as the system tells"),
        "price": Figure(1.0, "assumed: the unit of cost is this machine"),
    }


def _links(k: Kernels, here: str) -> dict[str, Section]:
    """Every plane is shared memory, but the one to other machines."""
    shm, tcp, copy = k.shm_bps / GIGA, k.tcp_bps / GIGA, k.copy_bps / GIGA
    us, file = k.shm_s / MICRO, k.file_bps / GIGA
    rates = _same(shm, _SHM, "read_gbps", "write_gbps", "node_read_gbps", "node_write_gbps")
    delays = _same(us, _SHM, "read_us", "write_us")
    node_delays = _same(us, _SHM, "node_read_us", "node_write_us")
    chips = ("first_tier_per_node", "planes", "second_tier_per_plane", "ports_per_second_tier")
    messages = ("dispatch_bytes", "combine_bytes")
    return {
        "supernode": {
            **_same(1, "one machine", "nodes", "nodes_per_rack"),
            "communication_racks": Figure(0, "one machine"),
        },
        "switches": {
            **_same(1, _NONE, *chips),
            **_same(tcp, _TCP, "first_tier_uplink_gbps", "port_gbps"),
        },
        "scale_up": {"nominal_gbps": Figure(shm, _SHM), **rates, **delays, **node_delays},
        "scale_out": {"die_gbps": Figure(shm, _SHM)},
        "vpc": {
            "node_gbps": Figure(tcp, _TCP),
            "copy_gbps": Figure(copy, f"{here}: copying a large vector"),
        },
        "pool": {
            **rates,
            **delays,
            "block_tokens": Figure(16, "the server's default"),
            "block_ms": Figure(0.0, "all keys of a prompt are asked for together"),
        },
        "storage": _same(
            file, "measured: a file in the page cache", "object_gbps", "disk_node_gbps"
        ),
        "exchange": {
            **_same(4096.0, "assumed: experts are not measured", *messages),
            "fixed_us": Figure(us, _SHM),
            **_same(shm, _SHM, "node_gbps", "gbps"),
            "once_per_node": Figure(0, _NONE),
        },
    }


def _static(k: Kernels, schedule_s: float, here: str) -> Section:
    added = "measured: what a peer adds to a step of decode"
    return {
        "matrix_us": Figure(k.start_s / MICRO, f"{here}: a product of next to nothing"),
        "vector_us": Figure(k.pass_s / MICRO, f"{here}: an addition of next to nothing"),
        "collective_us": Figure(k.shm_s / MICRO, _SHM),
        "graph_gap_ms": Figure(0.0, "operators are called one by one"),
        "schedule_ms": Figure(schedule_s / MILLI, added),
    }


def _shares(k: Kernels, here: str) -> dict[str, Section]:
    attention = min(1.0, max(1e-3, k.prefill_attention_flops / k.peak_flops))
    experts = ("dispatch_token_us", "dispatch_peer_us", "combine_token_us", "combine_peer_us")
    return {
        "roof": {
            "attention_compute": Figure(
                attention, f"{here}: a prompt's causal attention over the fastest product"
            ),
            "memory": Figure(1.0, "the rate of the memory is a measured one"),
        },
        "fitted": {
            "gemm_compute": Figure(1.0, "fit of [tables] gemm"),
            "gemm_depth": Figure(0.0, "fit of [tables] gemm"),
            "gemm_overlap": Figure(1.0, "fit of [tables] grouped"),
            **_same(0.0, _NONE, *experts, "copy_cores"),
            "network": Figure(1.0, "rates are measured ones"),
        },
        "assumed": {
            "sort_passes": Figure(8.0, "assumed: as CloudMatrix384"),
            "latent_bytes": Figure(4.0, "assumed: the type of the arithmetic"),
        },
    }


def _tables(k: Kernels, weight_bytes: int, here: str) -> Section:
    many = [[1, *row[:3], row[3] / k.peak_flops] for row in k.products]
    few = [[1, *row[:3], row[3] / 2 / row[0] * weight_bytes / k.memory_bps] for row in k.narrow]
    shape = ("groups", "M per group", "N", "K")
    nothing = [[1, 1, 0, 0], [2, 1, 0, 0]]
    bulk = [[1, k.shm_bps / GIGA, k.shm_bps / GIGA]]
    return {
        "gemm_tile": Figure([[1, 1]], "assumed: no waste at the edges", ("rows", "columns")),
        "gemm": Figure(many, here, (*shape, "share of the peak")),
        "grouped": Figure(few, here, (*shape, "weights read over time, share of the bandwidth")),
        "exchange": Figure(nothing, _NONE, ("ranks", "tokens", "dispatch us", "combine us")),
        "copying": Figure([[1, 2, 1.0]], _NONE, ("cores", "cores", "ratio")),
        "bulk": Figure(bulk, _SHM, ("ranks", "dispatch GB/s", "combine GB/s")),
    }
