"""A cluster under traffic: discrete events around the scheduler that the server runs.

Requests come, prefill instances compute prompts and read what the context cache holds, decode
instances reserve blocks, the KV travels over RDMA, and answers grow a token a step; or colocated
instances do both. What an instance does in a step is decided by `silva.control`.
"""

from __future__ import annotations

import gc
import heapq
import math
from collections import deque
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from silva.control import fills, handover, scheduler
from silva.control.entry import Stage
from silva.control.request import Request, SamplingParams
from silva.control.scheduler import Update
from silva.supernode.carried import Carried
from silva.supernode.cluster import Cluster, Failure
from silva.supernode.cost.links import hand_over_s, pool_read_s
from silva.supernode.engine import Engine
from silva.supernode.faults import Faults, Loss
from silva.supernode.fleet import Fleet, make_fleet
from silva.supernode.hardware import GIGA
from silva.supernode.pool import ContextPool
from silva.supernode.records import Records
from silva.supernode.roles import Roles, check_roles
from silva.supernode.sampling import Sampler
from silva.supernode.system import System, load_system
from silva.supernode.traces import Traffic


def simulate(
    cluster: Cluster,
    traffic: Traffic,
    failures: tuple[Failure, ...] = (),
    system: System | None = None,
) -> Records:
    """What becomes of every request. Deterministic: the traffic holds all that is random.

    Raises ConfigError for a model that does not fit, and for a request that no instance can hold.
    """
    found = system or load_system(cluster.system)
    fleet = make_fleet(cluster, found, traffic)
    return Simulation(cluster, found, traffic, fleet, failures).run()


class _Asked(Request):
    """A request as it comes in: the fields without a default alone are written, which is quicker."""

    def __init__(
        self, request: str, prompt: tuple[int, ...], sampling: SamplingParams, arrival_s: float
    ) -> None:
        own = self.__dict__
        own["id"], own["prompt"] = request, prompt
        own["sampling"], own["arrival_s"] = sampling, arrival_s


class _Journey(NamedTuple):
    """KV on its way. A generation tells whether an instance has failed since."""

    request: Request
    source: Engine
    source_generation: int
    target: Engine
    target_generation: int


class Simulation:
    """Clock, instances, context cache, and the requests between them."""

    def __init__(
        self,
        cluster: Cluster,
        system: System,
        traffic: Traffic,
        fleet: Fleet,
        failures: tuple[Failure, ...] = (),
    ) -> None:
        self.cluster, self.system, self.traffic, self.fleet = cluster, system, traffic, fleet
        self.records = Records.empty(traffic)
        self.now_s = 0.0
        self.left = len(traffic)
        self.token_bytes = system.cache_bytes * system.network.layers
        size, block = int(cluster.cache_gb * GIGA), int(self.token_bytes * fleet.block_tokens)
        self.cache = ContextPool(cluster.caches, size, block) if size else None
        self.homeless: deque[tuple[Request, Engine, int]] = deque()
        """Prompts that are computed, and wait for room on a decode instance; on which instance they
        are, and its generation.
        """
        self.waiting: deque[Request] = deque()
        """Requests for which no instance is up."""
        self._params: dict[int, SamplingParams] = {}
        self._said: dict[int, int] = {}
        """Tokens that requests which began again had been given."""
        self._carried = Carried(cluster, system)
        self._events: list[tuple[float, int, Any, Any]] = []
        self._number = 0
        self._sampler = Sampler(self.records.samples, cluster.sample_s)
        # Single elements of a memory view are read and written several times as fast as an array's.
        self._prompts = np.ascontiguousarray(traffic.prompt).data
        self._first_token_s = _column(self.records.first_token_s)
        self._started_s = _column(self.records.started_s)
        self._finished_s = _column(self.records.finished_s)
        self._attempts = self.records.attempts.data
        self._ends = self._step_ends
        self.faults = Faults(cluster, system, fleet, traffic)
        for loss in self.faults.losses(failures):
            self._at(loss.at_s, self._fail, loss)
        self.roles: Roles | None = None
        if cluster.scale_window_s:
            check_roles(cluster, system, failures)
            self.roles = Roles(cluster, fleet)
            self._at(cluster.scale_window_s, self._window_ends, self.roles)

    def run(self) -> Records:
        """Handles events in order of time until every request has its answer."""
        collects = gc.isenabled()
        # Nothing here refers to itself, and the collector would look through all requests that are
        # under way again and again.
        gc.disable()
        try:
            self.records.events = self._handle_all()
        finally:
            if collects:
                gc.enable()
        self._close()
        return self.records

    def _handle_all(self) -> int:
        events, pop, sampled_s, arrived = self._events, heapq.heappop, 0.0, 0
        for index, next_s, output in self.traffic.arrivals():
            while self.left and events and events[0][0] < next_s:
                time_s, _, handle, subject = pop(events)
                if sampled_s <= time_s:
                    sampled_s = self._sample(time_s)
                self.now_s = time_s
                handle(subject)
            if index < 0:
                break
            if sampled_s <= next_s:
                sampled_s = self._sample(next_s)
            self.now_s = next_s
            self._arrive(index, output)
            arrived += 1
        if self.left:
            raise RuntimeError(f"{self.left} requests are left and nothing happens any more")
        return arrived + self._number - len(events)

    def _sample(self, until_s: float) -> float:
        """Queues up to a time; when the next sample is due."""
        counts = (each.state.counts() for each in self.fleet.engines if each.up)
        self._sampler.take(until_s, counts, len(self.waiting))
        return self._sampler.due_s

    def _at(self, time_s: float, handle: Any, subject: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (time_s, self._number, handle, subject))

    def _interrupt(self, engine: Engine) -> None:
        """Before something comes to an instance."""
        if engine.interrupt(self.now_s):
            self._at(engine.due_s, self._ends, engine)

    def _arrive(self, index: int, output: int) -> None:
        params = self._params.get(output)
        if params is None:
            params = self._params[output] = SamplingParams(max_tokens=output)
        prompt = cast(tuple[int, ...], range(self._prompts[index]))  # only its length is looked at
        self._submit(_Asked(str(index), prompt, params, self.now_s), index)

    def _submit(self, request: Request, index: int) -> None:
        """To the least loaded instance that computes prompts."""
        engine = self.fleet.for_prompt(_known(request))
        if engine is None:
            self.waiting.append(request)
            return
        self._attempts[index] += 1
        self._interrupt(engine)
        names = self.traffic.shared[index] if self.traffic.shared else ()
        scheduler.add(
            engine.state,
            request,
            tuple(name.to_bytes(8, "big") for name in names) if names else (),
            hand_over=engine.hands_over,
            lookup=bool(names) and self.cache is not None,
        )
        self._start(engine)

    def _start(self, engine: Engine) -> None:
        """Begin a step, and the lookups of those that it admits."""
        while engine.due_s == math.inf:
            engine.start(self.now_s)
            if engine.due_s != math.inf:
                self._number += 1
                heapq.heappush(self._events, (engine.due_s, self._number, self._ends, engine))
            if self.cache is None or not self._look_up(engine):
                return

    def _look_up(self, engine: Engine) -> bool:
        """Whether any lookup began."""
        begun = fills.lookups(engine.state)
        for request, keys in begun:
            self._look(engine, request, keys)
        return bool(begun)

    def _look(self, engine: Engine, request: str, keys: tuple[bytes, ...]) -> None:
        found = self.cache.found(keys) if self.cache is not None else ()
        read = [key for key, _ in fills.fill(engine.state, request, found)]
        if read:
            tokens = len(read) * self.fleet.block_tokens / self.system.prefill.dies
            machine, plane = self.faults.system.machine, self.cluster.cache_plane
            seconds = pool_read_s(machine, tokens, self.token_bytes, plane)
            self._carried.read(seconds)
            subject = (engine, engine.generation, request, read)
            self._at(self.now_s + seconds, self._filled, subject)

    def _filled(self, subject: tuple[Engine, int, str, list[bytes]]) -> None:
        engine, generation, request, keys = subject
        if engine.generation == generation:
            self._interrupt(engine)
            fills.filled(engine.state, request, keys)
            self._start(engine)

    def _step_ends(self, engine: Engine) -> None:
        if engine.due_s != self.now_s:
            return  # interrupted, or failed
        update = engine.finish()
        self._take_in(engine, update)
        self._start(engine)
        if self.homeless and update.ended:
            self._place_homeless()
        if self.roles is not None:
            self._change_role(self.roles)

    def _take_in(self, engine: Engine, update: Update) -> None:
        now, first = self.now_s, self._first_token_s
        for chunk in engine.chunks:
            if chunk.samples:
                index = int(chunk.request)
                if first[index] != first[index]:  # not a number: not yet
                    first[index] = now
        for ended in update.ended:
            index = int(ended.request)
            self._finished_s[index] = now
            self.left -= 1
            if self._started_s[index] != self._started_s[index]:
                self._note(index, ended.started_s, ended.cached_tokens)
            said = self._said.get(index, 0) if self._said else 0
            self.fleet.over(engine, self._prompts[index] + said)
        if self.cache is not None:
            for stored in update.stored:
                self.cache.insert(stored.key)
        for name in update.handed:
            entry = engine.state.entries[name]
            self._note(int(name), entry.started_s, entry.cached_tokens)
            self.fleet.computed(engine, _known(entry.request))
            self._place(entry.request, engine)

    def _note(self, index: int, started_s: float | None, cached: int) -> None:
        if started_s is not None and self._started_s[index] != self._started_s[index]:
            self._started_s[index] = started_s
            if cached:
                self.records.cached_tokens[index] = cached

    def _place(self, request: Request, source: Engine) -> bool:
        """Reserve room on a decode instance and send the KV there; else it waits."""
        tokens = _known(request)
        target = self.fleet.for_answer(tokens)
        if target is not None:
            self._interrupt(target)
        taken = target is not None and handover.reserve(target.state, request, (), target.times)
        if target is None or not taken:
            self.homeless.append((request, source, source.generation))
            return False
        self.fleet.expect(target, tokens)
        journey = _Journey(request, source, source.generation, target, target.generation)
        seconds = hand_over_s(self.system.machine, tokens * self.token_bytes)
        self._carried.hand_over(seconds)
        self._at(self.now_s + seconds, self._land, journey)
        return True

    def _place_homeless(self) -> None:
        for _ in range(len(self.homeless)):
            request, source, generation = self.homeless.popleft()
            if source.generation == generation and not self._place(request, source):
                self.homeless.rotate(1)  # it goes on waiting at the head
                return

    def _land(self, journey: _Journey) -> None:
        request, source, source_generation, target, target_generation = journey
        there = target.generation == target_generation
        if source.generation != source_generation:
            if there:
                handover.abandon(target.state, request.id)
                self.fleet.over(target, _known(request))
            return  # submitted again when its source was lost
        if not there:
            self._place(request, source)
            return
        handover.release(source.state, request.id)
        self.fleet.fetched(source)
        self._interrupt(target)
        handover.commit(target.state, request.id)
        self._start(target)
        self._start(source)

    def _fail(self, loss: Loss) -> None:
        """What instances know is lost; their requests begin again with what they were given."""
        for number in loss.caches:
            if self.cache is not None and self.faults.lose_cache(number):
                self.cache.lose(number)
        if loss.switch is not None:
            self._slow(self.faults.lose_switch(loss.switch))
        back_s = self.now_s + loss.for_s
        self._at(back_s, self._return, loss)
        if not loss.engines:
            return
        back_s += self.faults.load_s(loss)
        for engine in loss.engines:
            engine.back_s = max(engine.back_s, back_s)
            if engine.up:  # else nothing is left to lose, but it may take longer
                self._lose(engine)
        self._at(back_s, self._loaded, loss)

    def _lose(self, engine: Engine) -> None:
        self._interrupt(engine)
        entries, lengths = list(engine.state.entries.values()), engine.lengths()
        self.fleet.lose(engine, self.now_s)
        for entry, length in zip(entries, lengths, strict=True):
            if entry.stage is Stage.RESERVED:
                continue  # its source still holds the KV
            old, index = entry.request, int(entry.request.id)
            self._note(index, entry.started_s, entry.cached_tokens)
            said = self._said[index] = length - len(old.prompt)
            again = Request(
                old.id,
                old.prompt,
                old.sampling,
                old.arrival_s,
                emitted=cast(tuple[int, ...], range(said)),
                attempt=old.attempt + 1,
            )
            self._submit(again, index)

    def _return(self, loss: Loss) -> None:
        for number in loss.caches:
            if self.cache is not None and self.faults.restore_cache(number):
                self.cache.restore(number)
        if loss.switch is not None:
            self._slow(self.faults.restore_switch(loss.switch))

    def _loaded(self, loss: Loss) -> None:
        """Instances have their model again, and requests that found nobody go to them."""
        for engine in loss.engines:
            if not engine.up and self.now_s >= engine.back_s:  # else another failure lasts longer
                self.fleet.restore(engine)
        for _ in range(len(self.waiting)):
            request = self.waiting.popleft()
            self._submit(request, int(request.id))
        self._place_homeless()

    def _slow(self, changed: bool) -> None:
        """Steps take another time from the next one on."""
        for engine in self.fleet.engines if changed else ():
            self._interrupt(engine)
            engine.times = self.faults.times(engine)

    def _window_ends(self, roles: Roles) -> None:
        roles.window_ends(self.now_s, self.records)
        self._at(self.now_s + roles.window_s, self._window_ends, roles)
        self._change_role(roles)

    def _change_role(self, roles: Roles) -> None:
        new = roles.proceed(self.now_s, self.records)
        if new is not None and not new.hands_over:
            self._place_homeless()

    def _close(self) -> None:
        seconds = max(self.now_s, 1e-12)
        for engine in self.fleet.engines:
            over = engine.due_s - self.now_s if engine.due_s != math.inf else 0.0
            self.records.busy[engine.name] = float(np.clip((engine.busy_s - over) / seconds, 0, 1))
            self.records.steps += engine.steps
        self.records.links |= self._carried.shares(seconds, self.records.moves)


def _column(values: NDArray[np.float64]) -> memoryview[float]:
    return cast("memoryview[float]", values.data)


def _known(request: Request) -> int:
    """Tokens whose KV a request needs before its next one."""
    return len(request.prompt) + len(request.emitted)
