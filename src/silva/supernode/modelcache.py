"""Loading models: from the object store, from each instance's own memory, or from the shared pool.

The paper's Table 2, section 4.7: without a pool every instance loads by itself and they share the
bucket's rate; with it one load serves all, and each reads the pool at the rate of a warm start.
"""

from __future__ import annotations

from dataclasses import dataclass

from silva.supernode.cost.links import storage_s, warm_load_s
from silva.supernode.system import System
from silva.supernode.workload import ModelLoad


@dataclass(frozen=True)
class ModelCache:
    """Times in seconds; None where the policy keeps nothing in memory."""

    cold_s: float
    """Until all instances that start at once have a model that nobody has."""
    warm_s: float | None
    """Until an instance has a model that is in memory."""
    switch_s: float
    """Mean time of one instance for the next of its models, each as likely as the others."""
    dram_copies: int
    """Copies of one model in memory, with every instance using it."""
    hit_rate: float
    """Share of switches that find their model in memory."""


def model_cache(system: System, load: ModelLoad) -> ModelCache:
    """What a policy takes for a model of the system's weights."""
    hw = system.machine
    size = system.network.weights * system.precision.weight_bytes
    one, warm = storage_s(hw, size), warm_load_s(hw, size)
    if load.policy == "none":
        return ModelCache(one * load.instances, None, one, 0, 0.0)
    if load.policy == "local":
        hit = 1.0 / load.models  # an instance's own memory holds the model that it ran last
        return ModelCache(
            one * load.instances, warm, hit * warm + (1.0 - hit) * one, load.instances, hit
        )
    return ModelCache(one, warm, warm, 1, 1.0)
