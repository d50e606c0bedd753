"""summary.json: the few numbers a run is judged by, of the figure that the record names.

Accuracies are fractions in [0, 1]; perplexities are 1 at least, and less is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from silva.federation.figures import ACCURACY, FIGURES, Figure
from silva.federation.record import Measurement, Round, RunRecord

TIERS = ("root", "cluster", "leaf")
"""Tiers of a seen client's path, from the top; also the stages of a run in their order."""
CONTROL = "head_only"
"""The control that every summary names, measured or not."""
UNSEEN = ("root", "zero_leaf", "after_1", "after_5")
"""What every summary names of unseen clients, measured or not; see `unseen_names`."""
TAIL = 0.1
"""Share of clients that counts as the tail: nine tenths are better; the mean of the worst 10 %."""


def latest(measurements: Iterable[Measurement], *, seen: bool) -> dict[str, dict[str, Measurement]]:
    """The last measurement of every client, as tier -> client -> row.

    A later row of the record replaces an earlier one, so a tier's value is that of the end of its
    last evaluation. Clients without test data are left out: there is nothing to measure.
    """
    rows: dict[str, dict[str, Measurement]] = {}
    for row in measurements:
        if row.seen == seen and row.total > 0:
            rows.setdefault(row.tier, {})[row.client] = row
    return rows


def leaf_epochs(tier: str) -> int:
    """N of "after_N", an unseen client's leaf after N epochs; 0 of every other tier."""
    epochs = tier.removeprefix("after_")
    return int(epochs) if epochs != tier else 0


def unseen_names(measured: Iterable[str]) -> list[str]:
    """`UNSEEN` and what else was measured on unseen clients, leaves by their epochs."""
    names = dict.fromkeys([*UNSEEN, *(tier for tier in measured if leaf_epochs(tier))])
    return sorted(names, key=leaf_epochs)


def unseen_tiers(record: RunRecord) -> tuple[str, ...]:
    """What is shown of unseen clients: with one cluster a zero leaf is the root once more."""
    names = unseen_names(latest(record.measurements, seen=False))
    return tuple(tier for tier in names if tier != "zero_leaf" or not record.one_cluster)


def control_names(measured: Iterable[str]) -> list[str]:
    """The controls among tiers measured on seen clients: `CONTROL` first, whatever was run."""
    return list(dict.fromkeys([CONTROL, *(t for t in measured if t not in {*TIERS, *UNSEEN})]))


def values_of(rows: Iterable[Measurement]) -> list[float]:
    """The figure of each row."""
    return [row.value for row in rows]


def spread(values: Sequence[float], figure: Figure = ACCURACY) -> dict[str, float | None]:
    """Mean, percentiles, standard deviation (population), tail mean and worst of values.

    p10 is the paper's tail (HiLoRA section 2, numpy's linear percentile); where less is better the
    tail is p90, beside it. tail_mean10 is the mean of the worst 10 %, at least one value. Everything
    is None when there are no values.
    """
    names = dict.fromkeys(("mean", "p10", *figure.spreads[1:5]))
    if not values:
        return names
    ordered = figure.worst_first(values)
    worst = ordered[: math.ceil(TAIL * len(ordered))]
    found = {
        "mean": float(ordered.mean()),
        "p10": float(np.percentile(ordered, 10)),
        "p90": float(np.percentile(ordered, 90)),
        "std": float(ordered.std()),
        "tail_mean10": float(worst.mean()),
        figure.spreads[4]: float(ordered[0]),
    }
    return {name: found[name] for name in names}


def tier_summary(rows: dict[str, Measurement], figure: Figure) -> dict[str, float | None]:
    """`spread` of one tier's clients, and the mean of the number beside the figure."""
    second = float(np.mean([row.second for row in rows.values()])) if rows else None
    return {**spread(values_of(rows.values()), figure), figure.spreads[5]: second}


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

    Every number of the figure is from a client's last measurement under a tier. A run that never
    clustered has one cluster; bytes are up and down together. Controls are those that were measured,
    and always `CONTROL`.
    """
    seen, unseen = (latest(record.measurements, seen=seen) for seen in (True, False))
    clustering, figure = record.clustering, FIGURES[record.figure]
    stages = stage_names(record)
    return {
        "figure": figure.name,
        "tiers": {tier: tier_summary(seen.get(tier, {}), figure) for tier in TIERS},
        "unseen": {
            tier: spread(values_of(unseen.get(tier, {}).values()), figure)["mean"]
            for tier in unseen_names(unseen)
        },
        "replies": {
            "rejected": sum(row.rejected for row in record.rounds),
            "lost": sum(row.dropped for row in record.rounds),
        },
        "clusters": len(set(clustering.labels)) if clustering else 1,
        "ari": clustering.ari if clustering else None,
        "control": {name: tier_summary(seen.get(name, {}), figure) for name in control_names(seen)},
        "bytes": {stage: sum(stage_traffic(record.rounds, stage)) for stage in stages},
        "seconds": {stage: stage_seconds(record, stage) for stage in stages},
        "clients": {
            "seen": len({row.client for row in record.measurements if row.seen}),
            "unseen": len({row.client for row in record.measurements if not row.seen}),
        },
        "routing_agreement": routing_agreement(record),
    }
