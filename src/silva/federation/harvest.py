"""From the state of a finished run to a forest on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.forest import Forest
from silva.adapters.manifest import base_model, check_classes
from silva.adapters.names import cluster_name
from silva.adapters.routing import signature
from silva.adapters.tiers import Tier, TierName
from silva.config import as_plain
from silva.errors import DataError, ForestError, ModelError
from silva.federation.material import Material
from silva.federation.record import RunRecord
from silva.federation.run import Progress, Run
from silva.federation.state import TierState, unpack_head, unpack_pairs


def check_harvest(material: Material) -> None:
    """Refuse before the first round what no forest could hold after the last.

    Raises ModelError for a backbone with too long a path, DataError for class names that are empty,
    too long or not each another.
    """
    try:
        base_model(dict(vars(material.base)), "")
    except ForestError as error:
        raise ModelError(
            f"no forest can name this backbone ({error.what})",
            where=material.base.id,
            remedy="move the model to a shorter path",
        ) from None
    try:
        check_classes(material.classes, material.dataset.title)
    except ForestError as error:
        raise DataError(error.what, where=error.where, remedy="rename the classes") from None


def harvest(run: Run, out: Path, material: Material) -> Forest:
    """Write the forest: root, clusters with signatures, a leaf a client, unseen clients routed.

    It is built in the run's folder, which goes away at the end whatever a kill leaves in it.
    """
    state, config = run.state, run.config.adapter
    assert state.root is not None
    clusters = {cluster_name(j): _cluster(run, tier) for j, tier in enumerate(state.clusters)}
    latest = latest_values(state.record)
    clients, leaves = {}, _Leaves(run)
    for rows in run.partition.clients:
        seen = rows.name not in run.partition.unseen
        label = state.labels.get(rows.name, 0)
        clients[rows.name] = NewClient(
            leaf=partial(leaves.next, rows.name) if seen else None,
            cluster=cluster_name(label) if clusters else None,
            seen=seen,
            images=len(rows.train),
            style=rows.style,
            **{run.task.figure.name: latest.get(rows.name, {})},
        )
    probe = {name: pair.A for name, pair in run.fresh_pairs("cluster").items()}
    return Forest.create(
        out,
        material.base,
        {"rank": config.rank, "alpha": config.alpha, "targets": list(config.targets)},
        material.classes,
        Change(
            root=_tier(run, "root", state.root),
            probe=probe if clusters else None,
            clusters=clusters,
            clients=clients,
        ),
        settings={**as_plain(run.config), **material.settings},
        labels=state.record.labels,
        scratch=run.folder.path,
    )


class _Leaves:
    """Reads leaves one after another, as they are written, and says how many there have been."""

    def __init__(self, run: Run) -> None:
        self._run, self._done = run, 0

    def next(self, client: str) -> Tier:
        self._done += 1
        total = len(self._run.partition.seen)
        self._run.on_progress(Progress("forest", self._done, total, client))
        return _leaf(self._run, client)


def latest_values(record: RunRecord) -> dict[str, dict[str, float]]:
    """The last value of each client's figure by tier; a zero leaf counts as its last tier."""
    latest: dict[str, dict[str, float]] = {}
    below = "root" if record.one_cluster else "cluster"
    for row in record.measurements:
        tier = below if row.tier == "zero_leaf" else row.tier
        if tier in ("root", "cluster", "leaf"):
            latest.setdefault(row.client, {})[tier] = row.value
    return latest


def _tier(run: Run, name: TierName, state: TierState) -> Tier:
    return Tier(name=name, pairs=state.pairs, head=state.head, scaling=run.scaling)


def _cluster(run: Run, state: TierState) -> NewCluster:
    bases = signature({n: p.B for n, p in state.pairs.items()})
    return NewCluster(tier=_tier(run, "cluster", state), signature=bases)


def _leaf(run: Run, client: str) -> Tier:
    tensors = run.folder.get(run.state, "leaf", client)
    assert tensors is not None
    state = TierState(pairs=unpack_pairs(tensors), head=unpack_head(tensors))
    return _tier(run, "leaf", state)
