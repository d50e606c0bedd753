"""What a failure takes with it: where instances stand on the machine, and links without a switch.

Dies are numbered through: those of the prefill instances first, each instance's side by side, then
those of decode. An instance without one of its dies stops as a whole, as a peer of the server does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from silva.control.slo import StepTime
from silva.errors import ConfigError
from silva.supernode.cluster import Cluster, Failure
from silva.supernode.engine import Engine
from silva.supernode.fleet import Fleet, step_times
from silva.supernode.modelcache import model_cache
from silva.supernode.system import System
from silva.supernode.traces import Traffic
from silva.supernode.workload import ModelLoad


@dataclass(frozen=True)
class Loss:
    """One failure, as what it takes."""

    at_s: float
    for_s: float
    engines: tuple[Engine, ...] = ()
    caches: tuple[int, ...] = ()
    switch: int | None = None
    memory: bool = False
    """Whether the memory of a node is lost, with the models that it held."""


class Faults:
    """Counts what is lost at present. `system` is the system as it runs now."""

    def __init__(self, cluster: Cluster, system: System, fleet: Fleet, traffic: Traffic) -> None:
        self._cluster, self._whole, self._fleet, self._traffic = cluster, system, fleet, traffic
        self._cache_count = cluster.caches if cluster.cache_gb else 0
        self.system = system
        self._caches: Counter[int] = Counter()
        self._switches: Counter[int] = Counter()

    def losses(self, failures: Iterable[Failure]) -> list[Loss]:
        """ConfigError for one that names nothing there is, and where no switch would be left."""
        found = [self._loss(failure) for failure in failures]
        self._whole.machine.without_planes(_most_planes(found))
        return found

    def lose_cache(self, number: int) -> bool:
        """Whether it was up before."""
        self._caches[number] += 1
        return self._caches[number] == 1

    def restore_cache(self, number: int) -> bool:
        """Whether no other failure keeps it away."""
        self._caches[number] -= 1
        return not self._caches[number]

    def lose_switch(self, number: int) -> bool:
        """Whether links are slower than before."""
        self._switches[number] += 1
        self._rewire()
        return self._switches[number] == 1

    def restore_switch(self, number: int) -> bool:
        """Whether links are faster than before."""
        self._switches[number] -= 1
        self._rewire()
        return not self._switches[number]

    def times(self, engine: Engine) -> StepTime:
        """Step times of an instance on the machine as it is now."""
        prefill, decode = step_times(self._cluster, self.system, self._traffic)
        return prefill if engine.hands_over else decode

    def load_s(self, loss: Loss) -> float:
        """How long the instances of a loss, one at least, load their model once they are back.

        All at once: from the object store, which they share, where nothing keeps the model. What
        those of other losses load meanwhile is not counted.
        """
        policy = self._cluster.model_cache
        found = model_cache(self._whole, ModelLoad(policy, instances=len(loss.engines)))
        kept = policy == "ems" or (policy == "local" and not loss.memory)
        return found.warm_s if kept and found.warm_s is not None else found.cold_s

    def _rewire(self) -> None:
        lost = sum(count > 0 for count in self._switches.values())
        self.system = replace(self._whole, lost_planes=lost)

    def _loss(self, failure: Failure) -> Loss:
        number, role = failure.instance, failure.role
        setups, machine = self._fleet, self._whole.machine
        most = {
            "prefill": len(setups.prefill),
            "decode": len(setups.decode),
            "cache": self._cache_count,
            "die": sum(len(dies) for dies in self._places()),
            "node": self._nodes(),
            "switch": int(machine.switches.planes),
        }[role]
        if number >= most:
            word = "planes" if role == "switch" else "instances"
            word = f"{role}s in use" if role in ("die", "node") else f"{role} {word}"
            raise ConfigError(f"there are {most} {word}", where=f"failure of {role} {number}")
        span = range(0)
        caches: tuple[int, ...] = ()
        if role == "switch":
            return Loss(failure.at_s, failure.for_s, switch=number)
        if role == "cache":
            caches = (number,)
        elif role in ("die", "node"):
            width = machine.dies_per_node if role == "node" else 1
            span = range(number * width, (number + 1) * width)
            on_node = role == "node" and number < self._cache_count
            caches = (number,) if on_node else ()
        else:
            engine = (setups.prefill if role == "prefill" else setups.decode)[number]
            return Loss(failure.at_s, failure.for_s, (engine,))
        hit = zip(setups.engines, self._places(), strict=True)
        engines = tuple(e for e, dies in hit if dies.start < span.stop and span.start < dies.stop)
        return Loss(failure.at_s, failure.for_s, engines, caches, memory=role == "node")

    def _places(self) -> list[range]:
        """The dies of each instance, in the order of `Fleet.engines`."""
        places, start = [], 0
        for engine in self._fleet.engines:
            setup = self._whole.prefill if engine.hands_over else self._whole.decode
            places.append(range(start, start + setup.dies))
            start += setup.dies
        return places

    def _nodes(self) -> int:
        dies = sum(len(dies) for dies in self._places())
        return max(-(-dies // self._whole.machine.dies_per_node), self._cache_count)


def _most_planes(losses: Iterable[Loss]) -> int:
    """Planes of switches that are lost at one time, at most.

    One that is lost at the moment at which another one is back is lost beside it.
    """
    lost = [loss for loss in losses if loss.switch is not None]
    at_once = (
        {each.switch for each in lost if each.at_s <= loss.at_s <= each.at_s + each.for_s}
        for loss in lost
    )
    return max(map(len, at_once), default=0)
