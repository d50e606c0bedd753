"""How many instances a traffic needs: the cheapest cluster that holds two targets, and its margins.

For each degree of expert parallelism that fits: the largest batch that the server would let in
under the target of the time a token, counts from the load as far as the machine has dies, then
simulation, one instance more of what misses its target until both hold. From the cheapest on, one
thing at a time is changed: dies of a prefill instance, size of the context cache, cap of the batch.
Neighbours of the cheapest, and it with a node lost, are simulated as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from silva.control.slo import AIM, largest_batch
from silva.errors import ConfigError
from silva.supernode.capacity import cache_tokens
from silva.supernode.cluster import Cluster, Failure
from silva.supernode.fleet import decode_table, prefill_table
from silva.supernode.simulate import simulate
from silva.supernode.system import System
from silva.supernode.traces import Traffic

DEGREES = (8, 16, 32, 64, 144, 320)
"""Dies of a decode instance that are tried, those that fit; of a dense model, tensor groups."""

PREFILL_DEGREES = (8, 16, 32, 64)
"""Dies of a prefill instance that are tried."""

CACHE_SHARES = (1 / 64, 1 / 8, 1 / 2)
"""Parts of the memory of a plan's nodes that are tried as context cache, where prompts share any."""

BATCH_SHARES = (3 / 4, 1 / 2)
"""Caps of the batch that are tried, as parts of the largest within the target."""

MOST_BATCH = 256
_LARGEST_TENSOR = 8
_ROUNDS = 24


@dataclass(frozen=True)
class Targets:
    """99th percentiles to hold, in seconds."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Trial:
    """One cluster and what its simulation found."""

    system: System
    cluster: Cluster
    nodes: int
    ttft_s: float
    tpot_s: float
    goodput: float
    """Requests a second within both targets."""
    binding: str
    """The target that is nearer to being missed."""
    holds: bool

    @property
    def name(self) -> str:
        """In words."""
        c, s = self.cluster, self.system
        cache = f", {c.cache_gb:,.0f} GB cache" if c.cache_gb else ""
        return (
            f"{c.prefill} prefill x {s.prefill.dies} dies, {c.decode} decode x {s.decode.dies} dies"
            f"{cache}"
        )

    @property
    def price(self) -> float:
        """Of its nodes, in the unit of the machine's file, to hold against other machines."""
        return self.nodes * self.system.machine.node.price

    @property
    def cost(self) -> tuple[int, float, float]:
        """What is compared: nodes, then memory of the cache, then the time to the first token."""
        return (self.nodes, self.cluster.cache_gb, self.ttft_s)


@dataclass(frozen=True)
class Plan:
    """The cheapest cluster that holds, what else was found, and what happens next to it."""

    best: Trial
    frontier: tuple[Trial, ...]
    """Clusters that hold, the cheapest of each kind, by nodes; none that is dearer and slower."""
    neighbours: dict[str, Trial]
    """One instance more and fewer of each kind, with the nodes that makes; and a node of each kind
    lost for half of the time, after which its instances load their model.
    """

    def as_plain(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "best": _plain(self.best),
            "frontier": [_plain(trial) for trial in self.frontier],
            "neighbours": {name: _plain(trial) for name, trial in self.neighbours.items()},
        }


def make_plan(
    system: System, traffic: Traffic, targets: Targets, base: Cluster | None = None
) -> Plan:
    """Searches clusters of instances of `system`, none larger than its machine.

    What is not searched is as in `base`. Raises ConfigError for targets that nothing holds (it says
    the closest) and a model that fits nowhere.
    """
    if not len(traffic) or traffic.seconds <= 0:
        raise ConfigError("too little traffic", where="traffic", remedy="give more requests")
    trials: list[Trial] = []
    closest: list[Trial] = []
    for candidate in _systems(system):
        start = _from_load(candidate, traffic, targets, base or Cluster())
        found = _smallest(candidate, start, traffic, targets)
        (trials if found.holds else closest).append(found)
    if not trials:
        raise _unreachable(closest, targets, system)
    best = min(trials, key=lambda trial: trial.cost)
    for variants in (_other_prefill, _other_cache, _other_batch):
        for candidate, start in variants(best, traffic):
            trials.append(_smallest(candidate, start, traffic, targets, best.nodes))
        best = min((trial for trial in trials if trial.holds), key=lambda trial: trial.cost)
    held = [trial for trial in trials if trial.holds]
    return Plan(best, _frontier(held), _neighbours(best, traffic, targets))


def table(plan: Plan, targets: Targets) -> str:
    """The plan as text."""
    head = f"{'':<76}{'nodes':>6}{'TTFT p99 s':>12}{'TPOT p99 ms':>13}{'goodput':>9}  holds"
    goal = f"targets: TTFT p99 {targets.ttft_s:g} s, TPOT p99 {targets.tpot_s * 1e3:g} ms"
    lines = [goal, "", head, _line("best: " + plan.best.name, plan.best)]
    lines += [_line("   or: " + trial.name, trial) for trial in plan.frontier if trial != plan.best]
    lines += [_line(f"best, {name}", trial) for name, trial in plan.neighbours.items()]
    lines += ["", f"at most {plan.best.cluster.batch_per_npu} requests a package decode"]
    lines.append(f"price of its nodes: {plan.best.price:g}")
    return "\n".join([*lines, f"binding: {plan.best.binding}"])


def _systems(system: System) -> list[System]:
    """The system with each degree that fits into memory and onto the machine."""
    found, refused = [], None
    for dies in sorted({*DEGREES, system.decode.dies}):
        tensor = system.decode.tensor
        if system.network.is_dense:
            tensor = dies
        if dies + system.prefill.dies > system.machine.dies or tensor > _LARGEST_TENSOR:
            continue
        shared = system.decode.shared_dies if dies == system.decode.dies else 0
        setup = replace(system.decode, dies=dies, tensor=tensor, shared_dies=shared)
        candidate = replace(system, decode=setup)
        try:
            cache_tokens(candidate, decode=True)
        except ConfigError as error:
            refused = error
        else:
            found.append(candidate)
    if not found:
        raise refused or ConfigError("no degree fits the machine", where=system.name)
    cache_tokens(system, decode=False)
    return found


def _other_prefill(best: Trial, traffic: Traffic) -> list[tuple[System, Cluster]]:
    """Prefill instances of other sizes, with as many dies in all, that fit into memory."""
    found = []
    old = best.system.prefill
    for dies in PREFILL_DEGREES:
        tensor = min(dies, _LARGEST_TENSOR) if best.system.network.is_dense else old.tensor
        group = min(dies, old.sequence_group)
        if dies == old.dies or dies % group or dies % tensor:
            continue
        setup = replace(old, dies=dies, tensor=tensor, sequence_group=group)
        system = replace(best.system, prefill=setup)
        count = max(1, math.ceil(best.cluster.prefill * old.dies / dies))
        cluster = replace(best.cluster, prefill=count)
        try:
            cache_tokens(system, decode=False)
        except ConfigError:
            continue
        if _nodes(system, cluster) <= best.nodes:
            found.append((system, cluster))
    return found


def _other_cache(best: Trial, traffic: Traffic) -> list[tuple[System, Cluster]]:
    """Context caches of several sizes in the memory of the plan's own nodes, where they are of use."""
    if not traffic.shared:
        return []
    memory = best.nodes * best.system.machine.node.dram_gb
    return [
        (
            best.system,
            replace(best.cluster, cache_gb=float(int(memory * share)), caches=best.nodes),
        )
        for share in CACHE_SHARES
    ]


def _other_batch(best: Trial, traffic: Traffic) -> list[tuple[System, Cluster]]:
    """Lower caps of the batch: a token takes less time, and more requests wait."""
    caps = {max(1, int(best.cluster.batch_per_npu * share)) for share in BATCH_SHARES}
    return [
        (best.system, replace(best.cluster, batch_per_npu=cap))
        for cap in sorted(caps - {best.cluster.batch_per_npu})
    ]


def _smallest(
    system: System, cluster: Cluster, traffic: Traffic, targets: Targets, most: int | None = None
) -> Trial:
    """The fewest instances that hold the targets, from `cluster` on, or the last that were tried.

    None of more than `most` nodes, those of the machine where it is not given.
    """
    most = most or system.machine.supernode.nodes
    trial = _try(system, cluster, traffic, targets)
    for _ in range(_ROUNDS):
        if trial.holds:
            break
        more = "prefill" if trial.ttft_s > targets.ttft_s else "decode"
        cluster = replace(cluster, **{more: getattr(cluster, more) + 1})
        if _nodes(system, cluster) > most:
            break
        trial = _try(system, cluster, traffic, targets)
    for fewer in ("decode", "prefill"):
        while trial.holds and getattr(trial.cluster, fewer) > 1:
            less = replace(trial.cluster, **{fewer: getattr(trial.cluster, fewer) - 1})
            found = _try(system, less, traffic, targets)
            if not found.holds:
                break
            trial = found
    return trial


def _from_load(system: System, traffic: Traffic, targets: Targets, base: Cluster) -> Cluster:
    """Counts that the mean load needs, as far as the machine goes, and the largest batch."""
    per_package = system.machine.die.per_package
    decode_packages = system.decode.dies / per_package
    prefill_packages = system.prefill.dies / per_package
    rate = len(traffic) / traffic.seconds
    length = traffic.mean_prompt + traffic.mean_output / 2
    times = decode_table(system, (base.mtp, base.acceptance), decode_packages, None)
    most = int(MOST_BATCH * decode_packages)
    batch = max(1, largest_batch(times, AIM * targets.tpot_s, length, most))
    per_npu = max(1, int(batch / decode_packages))
    step_s = times.seconds(batch, int(batch * length), 0)
    running = rate * traffic.mean_output * step_s
    tokens = base.prefill_tokens_per_npu * prefill_packages
    nearest = prefill_table(system, 2.0 ** round(math.log2(traffic.mean_prompt)), prefill_packages)
    prefill_rate = tokens / nearest.seconds(0, 0, int(tokens))
    prefill, decode = _within(system, rate * traffic.mean_prompt / prefill_rate, running / batch)
    return replace(
        base,
        system=system.name,
        prefill=prefill,
        decode=decode,
        batch_per_npu=per_npu,
        tpot_s=targets.tpot_s,
    )


def _within(system: System, prefill: float, decode: float) -> tuple[int, int]:
    """So many instances as whole ones, in proportion fewer where the machine has too few dies."""
    dies = system.machine.dies
    part = min(1.0, dies / (prefill * system.prefill.dies + decode * system.decode.dies))
    most = (dies - system.decode.dies) // system.prefill.dies
    prefills = min(max(1, math.ceil(part * prefill)), most)
    most = (dies - prefills * system.prefill.dies) // system.decode.dies
    return prefills, min(max(1, math.ceil(part * decode)), most)


def _try(
    system: System,
    cluster: Cluster,
    traffic: Traffic,
    targets: Targets,
    failures: tuple[Failure, ...] = (),
) -> Trial:
    records = simulate(cluster, traffic, failures, system)
    ttft = float(np.percentile(records.ttft_s, 99))
    known = records.tpot_s[~np.isnan(records.tpot_s)]
    tpot = float(np.percentile(known, 99)) if len(known) else 0.0
    used = {
        "time to the first token": ttft / targets.ttft_s,
        "time a token": tpot / targets.tpot_s,
    }
    return Trial(
        system,
        cluster,
        _nodes(system, cluster),
        ttft,
        tpot,
        records.goodput(targets.ttft_s, targets.tpot_s),
        max(used, key=lambda name: used[name]),
        max(used.values()) <= 1.0,
    )


def _nodes(system: System, cluster: Cluster) -> int:
    """Nodes of all instances; those that do not fill one share it."""
    dies = cluster.prefill * system.prefill.dies + cluster.decode * system.decode.dies
    return math.ceil(dies / system.machine.dies_per_node)


def _neighbours(best: Trial, traffic: Traffic, targets: Targets) -> dict[str, Trial]:
    found = {}
    first = {"prefill": 0, "decode": best.cluster.prefill * best.system.prefill.dies}
    for role in ("prefill", "decode"):
        count = getattr(best.cluster, role)
        for word, change in (("more", 1), ("fewer", -1)):
            if count + change >= 1:
                cluster = replace(best.cluster, **{role: count + change})
                trial = _try(best.system, cluster, traffic, targets)
                name = f"one {role} {word} ({trial.nodes - best.nodes:+d} nodes)"
                found[name] = trial
        half = traffic.seconds / 2
        node = first[role] // best.system.machine.dies_per_node
        failure = Failure("node", node, traffic.seconds / 4, half)
        found[f"a node of {role} lost for {half:.0f} s, then loading"] = _try(
            best.system, best.cluster, traffic, targets, (failure,)
        )
    return found


def _frontier(trials: list[Trial]) -> tuple[Trial, ...]:
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda each: (each.nodes, each.tpot_s)):
        if not kept or trial.tpot_s < kept[-1].tpot_s:
            kept.append(trial)
    return tuple(kept)


def _unreachable(closest: list[Trial], targets: Targets, system: System) -> ConfigError:
    def missed(trial: Trial) -> float:
        return max(trial.ttft_s / targets.ttft_s, trial.tpot_s / targets.tpot_s)

    near = min(closest, key=missed)
    what = (
        f"nothing of {system.name} within {system.machine.supernode.nodes} nodes holds "
        f"{targets.ttft_s:g} s and {targets.tpot_s * 1e3:g} ms"
    )
    remedy = (
        f"the closest, {near.name}, has TTFT p99 {near.ttft_s:.2f} s, "
        f"TPOT p99 {near.tpot_s * 1e3:.1f} ms"
    )
    return ConfigError(what, where="targets", remedy=remedy)


def _line(name: str, trial: Trial) -> str:
    return (
        f"{name:<76}{trial.nodes:>6}{trial.ttft_s:>12.2f}{trial.tpot_s * 1e3:>13.1f}"
        f"{trial.goodput:>9.2f}  {'yes' if trial.holds else 'no'}"
    )


def _plain(trial: Trial) -> dict[str, Any]:
    return {
        "prefill": trial.cluster.prefill,
        "decode": trial.cluster.decode,
        "prefill_dies": trial.system.prefill.dies,
        "decode_dies": trial.system.decode.dies,
        "batch_per_npu": trial.cluster.batch_per_npu,
        "cache_gb": trial.cluster.cache_gb,
        "nodes": trial.nodes,
        "price": trial.price,
        "ttft_p99_ms": trial.ttft_s * 1e3,
        "tpot_p99_ms": trial.tpot_s * 1e3,
        "goodput": trial.goodput,
        "binding": trial.binding,
        "holds": trial.holds,
    }
