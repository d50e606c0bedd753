"""summary.json: the few numbers a run is judged by. Accuracies are fractions in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from silva.federation.record import Accuracy, Round, RunRecord

TIERS = ("root", "cluster", "leaf")
"""Tiers of a seen client's path, from the top; also the stages of a run in their order."""
CONTROL = "head_only"
"""The control that every summary names, measured or not."""
UNSEEN = ("root", "zero_leaf", "after_1", "after_5")
TAIL = 0.1
"""Share of clients that counts as the tail: the 10th percentile, and the mean of the worst 10 %."""


def latest(accuracies: Iterable[Accuracy], *, seen: bool) -> dict[str, dict[str, Accuracy]]:
    """The last measurement of every client, as tier -> client -> row.

    A later row of the record replaces an earlier one, so a tier's value is that of the end of its
    last evaluation. Clients without test images are left out: they have no accuracy.
    """
    rows: dict[str, dict[str, Accuracy]] = {}
    for row in accuracies:
        if row.seen == seen and row.total > 0:
            rows.setdefault(row.tier, {})[row.client] = row
    return rows


def unseen_tiers(record: RunRecord) -> tuple[str, ...]:
    """What is shown of unseen clients: with one cluster a zero leaf is the root once more."""
    return tuple(tier for tier in UNSEEN if tier != "zero_leaf" or not record.one_cluster)


def control_names(measured: Iterable[str]) -> list[str]:
    """The controls among tiers measured on seen clients: `CONTROL` first, whatever was run."""
    return list(dict.fromkeys([CONTROL, *(t for t in measured if t not in {*TIERS, *UNSEEN})]))


def fractions(rows: Iterable[Accuracy]) -> list[float]:
    """Accuracy of each row, as a fraction."""
    return [row.correct / row.total for row in rows]


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, 10th percentile, standard deviation (population), tail mean and least of values.

    p10 is the paper's tail (HiLoRA section 2, numpy's linear percentile); tail_mean10 is the mean
    of the worst 10 %, at least one value. Everything is None when there are no values.
    """
    if not values:
        return dict.fromkeys(("mean", "p10", "std", "tail_mean10", "min"))
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    worst = ordered[: math.ceil(TAIL * len(ordered))]
    return {
        "mean": float(ordered.mean()),
        "p10": float(np.percentile(ordered, 100 * TAIL)),
        "std": float(ordered.std()),
        "tail_mean10": float(worst.mean()),
        "min": float(ordered[0]),
    }


def tier_summary(rows: dict[str, Accuracy]) -> dict[str, float | None]:
    """`spread` of one tier's clients, and the mean of their class-balanced accuracies."""
    balanced = float(np.mean([row.balanced for row in rows.values()])) if rows else None
    return {**spread(fractions(rows.values())), "balanced_mean": balanced}


def stage_names(record: RunRecord) -> list[str]:
    """The three tiers' stages, then whatever else the record holds (clustering, control, ...)."""
    found = [*record.seconds, *(row.stage for row in record.rounds)]
    return list(dict.fromkeys([*TIERS, *found]))


def stage_seconds(record: RunRecord, stage: str) -> float | None:
    """Wall-clock seconds of a stage; the sum over its rounds where the stage was not clocked."""
    rounds = [row.seconds for row in record.rounds if row.stage == stage]
    return record.seconds.get(stage, math.fsum(rounds) if rounds else None)


def stage_traffic(rounds: Iterable[Round], stage: str) -> tuple[int, int]:
    """Bytes sent up (client to server) and down in a stage; (0, 0) where nothing travels."""
    rows = [row for row in rounds if row.stage == stage]
    return sum(row.bytes_up for row in rows), sum(row.bytes_down for row in rows)


def routing_agreement(record: RunRecord) -> float | None:
    """Share of unseen clients that the probe and the loss send to the same cluster."""
    same = [row.cluster == row.by_loss for row in record.routed]
    return float(np.mean(same)) if same else None


def summarise(record: RunRecord) -> dict[str, Any]:
    """The content of summary.json: plain JSON types, None where the run measured nothing.

    Every accuracy is the last measurement of a client under a tier. A run that never clustered has
    one cluster; bytes are up and down together. Controls are those that were measured, and always
    `CONTROL`.
    """
    seen, unseen = latest(record.accuracies, seen=True), latest(record.accuracies, seen=False)
    clustering = record.clustering
    stages = stage_names(record)
    return {
        "tiers": {tier: tier_summary(seen.get(tier, {})) for tier in TIERS},
        "unseen": {
            tier: spread(fractions(unseen.get(tier, {}).values()))["mean"] for tier in UNSEEN
        },
        "clusters": len(set(clustering.labels)) if clustering else 1,
        "ari": clustering.ari if clustering else None,
        "control": {name: tier_summary(seen.get(name, {})) for name in control_names(seen)},
        "bytes": {stage: sum(stage_traffic(record.rounds, stage)) for stage in stages},
        "seconds": {stage: stage_seconds(record, stage) for stage in stages},
        "clients": {
            "seen": len({row.client for row in record.accuracies if row.seen}),
            "unseen": len({row.client for row in record.accuracies if not row.seen}),
        },
        "routing_agreement": routing_agreement(record),
    }
