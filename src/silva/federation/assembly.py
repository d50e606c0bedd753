"""A run put together from its parts: who owns which row, and all that `Run` needs at hand."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from silva.data.config import DataConfig
from silva.data.nouns import Dataset, Partition
from silva.data.partition import make_partition
from silva.federation.config import FederationConfig
from silva.federation.material import Material
from silva.federation.run import Progress, Run
from silva.federation.runtime.local import LocalRuntime
from silva.federation.state import RunFolder, RunState


def deal(
    config: DataConfig,
    seed: int,
    dataset: Dataset,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Partition:
    """The partition that the settings describe: equal settings give equal partitions.

    Images that are not decoded yet are all read once, which `on_progress` hears of as "images".
    """
    return make_partition(
        dataset,
        config.partition,
        clients=config.clients,
        unseen=config.unseen,
        samples_per_client=config.samples_per_client,
        test_per_client=config.test_per_client,
        seed=seed,
        after=lambda read, total: on_progress(Progress("images", read, total)),
    )


def make_run(
    config: FederationConfig,
    seed: int,
    material: Material,
    partition: Partition,
    folder: RunFolder,
    state: RunState,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    pool: Executor | None = None,
    lanes: int = 1,
) -> Run:
    """A run with all clients in this process, standing where `state` says.

    config names the rounds of every tier (`silva.federation.tune.with_rounds`). Clients work side by
    side in the `lanes` threads of `pool`, or one after another without one.
    """
    clients = material.clients(partition)
    return Run(
        config=config,
        seed=seed,
        task=material.task,
        partition=partition,
        clients=clients,
        runtime=LocalRuntime(material.task, clients, config.local, pool),
        folder=folder,
        state=state,
        on_progress=on_progress,
        pool=pool,
        lanes=lanes,
    )
