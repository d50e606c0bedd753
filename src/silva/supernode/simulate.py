"""A cluster under traffic: discrete events around the scheduler that the server runs.

Requests come, prefill instances compute prompts and read what the context cache holds, decode
instances reserve blocks, the KV travels over RDMA, and answers grow a token a step; or colocated
instances do both. What an instance does in a step is decided by `silva.control`.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from silva.control import fills, handover, scheduler
from silva.control.eviction import TierPolicy
from silva.control.request import Request, SamplingParams
from silva.control.state import Stage
from silva.errors import ConfigError
from silva.supernode.cluster import Cluster, Failure
from silva.supernode.cost.links import hand_over_s, pool_read_s
from silva.supernode.engine import Done, Engine
from silva.supernode.fleet import Fleet, make_fleet
from silva.supernode.hardware import GIGA
from silva.supernode.records import Records, Sample
from silva.supernode.system import System, load_system
from silva.supernode.traces import Traffic

MAX_SAMPLES = 1 << 16
"""Of two samples beside each other, the one with the longer queue stays when there are so many."""


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


@dataclass(frozen=True, slots=True)
class _Journey:
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
        size = int(cluster.cache_gb * GIGA)
        self.cache: TierPolicy[bytes] | None = TierPolicy(size) if size else None
        self.block_bytes = int(self.token_bytes * fleet.block_tokens)
        self.homeless: deque[tuple[Request, Engine]] = deque()
        """Prompts that are computed, and wait for room on a decode instance."""
        self.waiting: deque[Request] = deque()
        """Requests for which no instance is up."""
        self._params: dict[int, SamplingParams] = {}
        self._events: list[tuple[float, int, Any, Any]] = []
        self._number = 0
        self._sample_at_s, self._sample_every_s = 0.0, cluster.sample_s
        for engine in fleet.engines:
            engine.wake = self._wake
        for failure in failures:
            engines = fleet.prefill if failure.role == "prefill" else fleet.decode
            if failure.instance >= len(engines):
                what = f"there are {len(engines)} {failure.role} instances"
                raise ConfigError(what, where=f"failure of {failure.role} {failure.instance}")
            self._at(failure.at_s, self._fail, (engines[failure.instance], failure.for_s))

    def run(self) -> Records:
        """Handles events in order of time until every request has its answer."""
        arrivals = self.traffic.arrival_s.tolist()
        count, following = len(arrivals), 0
        events = self._events
        while self.left:
            next_s = arrivals[following] if following < count else math.inf
            self._sample(min(next_s, events[0][0]) if events else next_s)
            if events and events[0][0] < next_s:
                self.now_s, _, handle, subject = heapq.heappop(events)
                handle(subject)
            elif following < count:
                self.now_s = next_s
                self._arrive(following)
                following += 1
            else:
                raise RuntimeError(f"{self.left} requests are left and nothing happens any more")
            self.records.events += 1
        self._close()
        return self.records

    def _at(self, time_s: float, handle: Any, subject: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (time_s, self._number, handle, subject))

    def _wake(self, engine: Engine, time_s: float) -> None:
        self._at(time_s, self._step_ends, (engine, time_s))

    def _arrive(self, index: int) -> None:
        output = int(self.traffic.output[index])
        params = self._params.get(output)
        if params is None:
            params = self._params[output] = SamplingParams(max_tokens=output)
        prompt = cast(tuple[int, ...], range(int(self.traffic.prompt[index])))  # only its length
        self._submit(Request(str(index), prompt, params, self.now_s))

    def _submit(self, request: Request) -> None:
        """To the least loaded instance that computes prompts."""
        engine = self.fleet.for_prompt()
        if engine is None:
            self.waiting.append(request)
            return
        index = int(request.id)
        self.records.attempts[index] += 1
        engine.interrupt(self.now_s)
        names = self.traffic.shared[index] if self.traffic.shared else ()
        scheduler.add(
            engine.state,
            request,
            tuple(name.to_bytes(8, "big") for name in names),
            hand_over=engine.hands_over,
            lookup=bool(names) and self.cache is not None,
        )
        self._start(engine)

    def _start(self, engine: Engine) -> None:
        """Begin a step, and the lookups of those that it admits."""
        while True:
            engine.start(self.now_s)
            begun = fills.lookups(engine.state) if self.cache is not None else ()
            for request, keys in begun:
                self._look(engine, request, keys)
            if not begun or engine.due_s != math.inf:
                return

    def _look(self, engine: Engine, request: str, keys: tuple[bytes, ...]) -> None:
        cache = self.cache
        found = []
        for key in keys:
            if cache is None or not cache.touch(key):
                break
            found.append(key)
        read = [key for key, _ in fills.fill(engine.state, request, found)]
        if read:
            tokens = len(read) * self.fleet.block_tokens / self.system.prefill.dies
            plane = self.cluster.cache_plane
            seconds = pool_read_s(self.system.machine, tokens, self.token_bytes, plane)
            subject = (engine, engine.generation, request, read)
            self._at(self.now_s + seconds, self._filled, subject)

    def _filled(self, subject: tuple[Engine, int, str, list[bytes]]) -> None:
        engine, generation, request, keys = subject
        if engine.generation == generation:
            engine.interrupt(self.now_s)
            fills.filled(engine.state, request, keys)
            self._start(engine)

    def _step_ends(self, subject: tuple[Engine, float]) -> None:
        engine, due_s = subject
        if engine.due_s != due_s:
            return  # interrupted, or failed
        done = engine.finish()
        self._take_in(engine, done)
        self._start(engine)
        if self.homeless and done.update.ended:
            self._place_homeless()

    def _take_in(self, engine: Engine, done: Done) -> None:
        records, now = self.records, self.now_s
        for chunk in done.plan.chunks if done.plan is not None else ():
            if chunk.samples and math.isnan(records.first_token_s[int(chunk.request)]):
                records.first_token_s[int(chunk.request)] = now
        for ended in done.update.ended:
            index = int(ended.request)
            records.finished_s[index] = now
            self.left -= 1
            self._note(index, ended.started_s, ended.cached_tokens)
        if self.cache is not None:
            for stored in done.update.stored:
                self.cache.insert(stored.key, self.block_bytes)
        for name in done.update.handed:
            entry = engine.state.entries[name]
            self._note(int(name), entry.started_s, entry.cached_tokens)
            self._place(entry.request, engine)

    def _note(self, index: int, started_s: float | None, cached: int) -> None:
        if math.isnan(self.records.started_s[index]) and started_s is not None:
            self.records.started_s[index] = started_s
            self.records.cached_tokens[index] = cached

    def _place(self, request: Request, source: Engine) -> bool:
        """Reserve room on a decode instance and send the KV there; else it waits."""
        target = self.fleet.for_answer()
        if target is not None:
            target.interrupt(self.now_s)
        taken = target is not None and handover.reserve(target.state, request, (), target.times)
        if target is None or not taken:
            self.homeless.append((request, source))
            return False
        journey = _Journey(request, source, source.generation, target, target.generation)
        tokens = len(request.prompt) + len(request.emitted)
        seconds = hand_over_s(self.system.machine, tokens * self.token_bytes)
        self._at(self.now_s + seconds, self._land, journey)
        return True

    def _place_homeless(self) -> None:
        for _ in range(len(self.homeless)):
            request, source = self.homeless.popleft()
            if request.id in source.state.entries and not self._place(request, source):
                self.homeless.rotate(1)  # it goes on waiting at the head
                return

    def _land(self, journey: _Journey) -> None:
        request, source, target = journey.request, journey.source, journey.target
        there = target.generation == journey.target_generation
        if source.generation != journey.source_generation:
            if there:
                handover.abandon(target.state, request.id)
            return  # submitted again when its source was lost
        if not there:
            self._place(request, source)
            return
        handover.release(source.state, request.id)
        target.interrupt(self.now_s)
        handover.commit(target.state, request.id)
        self._start(target)
        self._start(source)

    def _fail(self, subject: tuple[Engine, float]) -> None:
        """All that an instance knows is lost; its requests begin again with what they were given."""
        engine, for_s = subject
        engine.back_s = max(engine.back_s, self.now_s + for_s)
        self._at(self.now_s + for_s, self._return, engine)
        if not engine.up:
            return  # nothing is left to lose, but it may take longer
        engine.interrupt(self.now_s)
        entries, lengths = list(engine.state.entries.values()), engine.lengths()
        engine.lose(self.now_s)
        for entry, length in zip(entries, lengths, strict=True):
            if entry.stage is Stage.RESERVED:
                continue  # its source still holds the KV
            request = entry.request
            self._note(int(request.id), entry.started_s, entry.cached_tokens)
            emitted = cast(tuple[int, ...], range(length - len(request.prompt)))
            again = replace(request, emitted=emitted, attempt=request.attempt + 1)
            self._submit(again)

    def _return(self, engine: Engine) -> None:
        if engine.up or self.now_s < engine.back_s:
            return  # another failure keeps it away for longer, or it is back already
        engine.reset()
        for _ in range(len(self.waiting)):
            self._submit(self.waiting.popleft())
        self._place_homeless()

    def _sample(self, until_s: float) -> None:
        """Samples up to the next event; where they become too many, half as many from there on."""
        if not self._sample_at_s <= until_s < math.inf:
            return
        counts = [engine.state.counts() for engine in self.fleet.engines]
        waiting = sum(each.waiting for each in counts) + len(self.waiting)
        running = sum(each.running for each in counts)
        coming = sum(each.coming + each.held for each in counts)
        samples = self.records.samples
        while self._sample_at_s <= until_s:
            samples.append(Sample(self._sample_at_s, waiting, running, coming))
            self._sample_at_s += self._sample_every_s
            if len(samples) >= MAX_SAMPLES:
                pairs = zip(samples[::2], samples[1::2], strict=True)
                samples[:] = [max(pair, key=lambda each: each.waiting) for pair in pairs]
                self._sample_every_s *= 2

    def _close(self) -> None:
        seconds = max(self.now_s, 1e-12)
        for engine in self.fleet.engines:
            over = engine.due_s - self.now_s if engine.due_s != math.inf else 0.0
            self.records.busy[engine.name] = float(np.clip((engine.busy_s - over) / seconds, 0, 1))
            self.records.steps += engine.steps
