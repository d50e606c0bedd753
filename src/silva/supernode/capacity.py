"""Memory of a die: what the model takes, what is left for the cache, and what would fit at all."""

from __future__ import annotations

from dataclasses import replace

from silva.errors import ConfigError
from silva.supernode.cost.experts import placement
from silva.supernode.hardware import GIGA
from silva.supernode.system import System

KEPT = 0.9
"""Share of the memory that weights and cache may fill; the rest is for activations and buffers."""


def weight_bytes(system: System, decode: bool) -> float:
    """Bytes of weights on one die of an instance, the draft module's among them."""
    model, low = system.network, system.precision.weight_bytes
    wide = system.precision.wide_weight_bytes
    setup = system.decode if decode else system.prefill
    layers = model.layers + min(setup.drafts, model.drafts)
    expert_layers = layers - model.dense_layers
    own = layers * model.attention_weights + model.dense_layers * model.dense_weights
    total = own * low / setup.tensor + 2 * model.embedding_weights * wide / setup.tensor
    if model.is_dense:
        return total
    shared_dies = system.decode.shared_dies if decode else 0
    place = placement(model, setup.dies, setup.redundant, shared_dies)
    slots = place.slots + (model.experts.shared if place.shared else 0)
    experts = slots * model.expert_weights * low + model.gate_weights * wide
    return total + expert_layers * experts


def cache_tokens(system: System, decode: bool) -> int:
    """Tokens whose KV an instance holds.

    Raises ConfigError for a model that does not fit; it says how many dies would do.
    """
    hw, setup = system.machine, system.decode if decode else system.prefill
    room = hw.die.memory_gb * GIGA * KEPT - weight_bytes(system, decode)
    if room <= 0.0:
        raise _too_large(system, decode)
    token = system.cache_bytes * (system.network.layers + min(setup.drafts, 1))
    return int(room * setup.dies / token)


def _too_large(system: System, decode: bool) -> ConfigError:
    setup = system.decode if decode else system.prefill
    phase = "decode" if decode else "prefill"
    need = weight_bytes(system, decode) / GIGA
    what = (
        f"{system.model} takes {need:.0f} GB on each of {setup.dies} dies of "
        f"{system.machine.die.memory_gb:.0f} GB"
    )
    remedy = "no number of dies is enough for it"
    for dies in (8, 16, 32, 64, 72, 128, 144, 256, 320, 512, 768):
        tensor = max(setup.tensor, min(dies, 8)) if system.network.is_dense else setup.tensor
        if decode:
            trial = replace(system, decode=replace(system.decode, dies=dies, tensor=tensor))
        else:
            trial = replace(system, prefill=replace(system.prefill, dies=dies, tensor=tensor))
        if weight_bytes(trial, decode) < system.machine.die.memory_gb * GIGA * KEPT:
            remedy = f"{dies} dies would do"
            break
    return ConfigError(what, where=f"{system.name}: {phase}.dies", remedy=remedy)
