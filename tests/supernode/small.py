"""A small system for simulations: a dense model on two dies, quick to tabulate."""

from __future__ import annotations

from dataclasses import replace

from silva.supernode.system import System, load_system


def small_system() -> System:
    """The dense model of the specs on instances of 8 dies (4 packages)."""
    system = load_system("cloudmatrix-infer")
    one = {"overlap": "none", "drafts": 0, "tensor": 8, "dies": 8}
    return replace(
        system,
        name="small",
        model="llama-3-70b",
        decode=replace(system.decode, shared_dies=0, **one),
        prefill=replace(system.prefill, sequence_group=1, **one),
    )
