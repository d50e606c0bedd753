"""What every stage of a run needs at hand: settings, clients, runtime, state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from silva.adapters.tiers import Head, LoraPair
from silva.data.nouns import Partition
from silva.federation.client import Update, Work
from silva.federation.config import FederationConfig
from silva.federation.record import ROWS, Measurement, Occasion
from silva.federation.replies import believable
from silva.federation.runtime.base import Clients, Runtime
from silva.federation.seeds import derive, generator
from silva.federation.state import RunFolder, RunState, TierState, unpack_head
from silva.federation.task import Task

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """A line for whoever watches: `done` of `total` rounds or clients of a stage."""

    stage: str
    done: int
    total: int
    note: str = ""


@dataclass
class Run:
    """One tuning run. Everything but `state` stays the same from start to end.

    Clients that do not depend on each other work side by side in the `lanes` threads of `pool`; with
    no pool, one after another. Only the main thread changes `state`.
    """

    config: FederationConfig
    seed: int
    task: Task[Any]
    partition: Partition
    clients: Clients[Any]
    runtime: Runtime
    folder: RunFolder
    state: RunState
    on_progress: Callable[[Progress], None] = lambda progress: None
    pool: Executor | None = None
    lanes: int = 1
    base: dict[str, Tensor] = field(init=False)
    images: dict[str, int] = field(init=False)
    _clock: tuple[str, float] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # What is sent and aggregated stays on the CPU; clients move it to the model's device.
        self.base = self.task.base(self.config.adapter.targets)
        self.state.record.figure = self.task.figure.name
        self.images = {c.name: len(c.train) for c in self.partition.clients}

    @property
    def scaling(self) -> float:
        """s = alpha / r."""
        return self.config.adapter.alpha / self.config.adapter.rank

    def fresh_pairs(self, *labels: object) -> dict[str, LoraPair]:
        """Pairs that change nothing yet: B = 0 and a seeded Kaiming draw (a = sqrt 5) for A."""
        generator = torch.Generator().manual_seed(derive(self.seed, "A", *labels))
        rank, pairs = self.config.adapter.rank, {}
        for name, weight in self.base.items():
            rows, columns = weight.shape
            bound = columns**-0.5
            A = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
            pairs[name] = LoraPair(B=torch.zeros(rows, rank), A=A)
        return pairs

    def merge(
        self, weights: Mapping[str, Tensor], pairs: Mapping[str, LoraPair]
    ) -> dict[str, Tensor]:
        """Weights with one more tier merged in: W + s B A by module."""
        return {n: w + self.scaling * pairs[n].product() for n, w in weights.items()}

    def founders(self) -> list[str]:
        """Training clients that take part from the start; the share `late` joins after the root."""
        names = [c.name for c in self.partition.seen]
        late = int(self.config.late * len(names))
        order = generator(self.seed, "late").permutation(len(names))
        return [names[n] for n in sorted(order[late:].tolist())]

    def members(self, cluster: int) -> list[str]:
        """Training clients of one cluster."""
        return [c.name for c in self.partition.seen if self.state.labels.get(c.name) == cluster]

    def path_weights(self, cluster: int) -> dict[str, Tensor]:
        """Weights of base, root and, where there are clusters, one cluster, merged."""
        assert self.state.root is not None
        merged = self.merge(self.base, self.state.root.pairs)
        if self.state.clusters:
            merged = self.merge(merged, self.state.clusters[cluster].pairs)
        return merged

    def above_leaf(self, cluster: int) -> TierState:
        """The tier whose head a leaf starts from: its cluster, or the root when there is none."""
        assert self.state.root is not None
        return self.state.clusters[cluster] if self.state.clusters else self.state.root

    def leaf_rounds(self) -> int:
        """Local passes of the leaf stage; a cluster tier that was skipped leaves its rounds here."""
        skipped = 0 if self.state.clusters else self.config.cluster.rounds
        return self.config.leaf.rounds + skipped

    def work(self, client: str, stage: str, number: int, **task: object) -> Work:
        """A piece of work whose order of images depends on run, stage, round and client alone."""
        seed = derive(self.seed, stage, number, client)
        return Work(
            client=client,
            scaling=self.scaling,
            epochs=self.config.local.epochs,
            seed=seed,
            orthogonality=self.config.orthogonality.kind,
            **task,  # type: ignore[arg-type]
        )

    def believes(self, update: Update, work: Work) -> bool:
        """Whether the client of `work` can have sent `update`; what is not believed is not used."""
        return believable(update, work, self.config.local, self.images[work.client])

    def parallel(self, task: Callable[[str], Result], names: Sequence[str]) -> list[Result]:
        """`task` of every client, in the order of `names`; it must leave `state` alone."""
        if self.pool is None or len(names) == 1:
            return [task(name) for name in names]
        return list(self.pool.map(task, names))

    def waves(self, names: Sequence[str]) -> Iterator[Sequence[str]]:
        """`names` in groups that fill the lanes once: after each, the state can be saved."""
        for start in range(0, len(names), self.lanes):
            yield names[start : start + self.lanes]

    def measure(
        self, names: Sequence[str], tier: str, merged: Mapping[str, Tensor], head: Head
    ) -> None:
        """Record how good one prefix of their paths is for clients `names`."""
        task = partial(self.measured, tier=tier, merged=merged, head=head)
        for rows in self.parallel(task, names):
            self.state.record.measurements += rows

    def measured(
        self, name: str, tier: str, merged: Mapping[str, Tensor], head: Head
    ) -> list[Measurement]:
        """The figure on one client's test data, a row; none for a client without any.

        Under a shared tier a client answers with its `own` head, else with the `head` given.
        """
        data = self.clients.test(name)
        if not len(data):
            return []
        mine = self.own(name, head) if tier in ("root", "cluster") else head
        score = self.task.measure(data, merged, mine)
        occasion = Occasion(
            client=name,
            seen=name not in self.partition.unseen,
            tier=tier,
            stage=self.state.stage,
            round=self.state.total_rounds,
        )
        return [ROWS[self.task.figure.name](**vars(occasion), **vars(score))]

    def own(self, client: str, head: Head) -> Head:
        """The client's own head under the policy "local", else `head`."""
        if self.config.head != "local":
            return head
        stored = self.folder.get(self.state, "head", client)
        return unpack_head(stored) if stored else head

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds spent inside to the record of `stage`, up to every checkpoint."""
        self._clock = (stage, time.perf_counter())
        try:
            yield
        finally:
            self._record_seconds()
            self._clock = None

    def _record_seconds(self) -> None:
        if self._clock is not None:
            stage, since = self._clock
            now, spent = time.perf_counter(), self.state.record.seconds
            spent[stage] = spent.get(stage, 0.0) + now - since
            self._clock = (stage, now)

    def save(self) -> None:
        """Checkpoint: whatever happens next, the run goes on from here."""
        self._record_seconds()
        self.folder.save(self.state)
