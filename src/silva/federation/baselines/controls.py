"""Controls that make the claim testable: the same local work with nothing, or only a root, shared.

    head_only    frozen root, the client's own head
    local_pair   frozen root, a pair and a head of the client's own
    local_lora   a pair and a head of the client's own on the bare base; nothing is ever shared

All start from the prior of the client's own labels, estimated as that of leaves is, but for what a
cluster's other members say of them. If one of these reaches the cluster tier, the gain is that prior,
not sharing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from silva.federation.heads import lone_first_head
from silva.federation.leaves import train_alone
from silva.federation.prior_heads import lone_head
from silva.federation.record import Measurement
from silva.federation.rounds import rounds_worked
from silva.federation.run import Run


@dataclass(frozen=True)
class LocalWork:
    """Local passes of one client in the cascade: in the root tier, and in cluster and leaf."""

    root: int
    below: int


def local_work(run: Run) -> dict[str, LocalWork]:
    """What every training client did once its leaf is grown, wherever sampling or a stop rule spared
    it a round. The pass for a basis that is thrown away does not count.
    """
    root = rounds_worked(run, run.founders(), "root")
    below = {c.name: run.leaf_rounds() for c in run.partition.seen}
    for j in range(len(run.state.clusters)):
        for name, rounds in rounds_worked(run, run.members(j), "cluster", j).items():
            below[name] += rounds
    return {name: LocalWork(root[name], rounds) for name, rounds in below.items()}


def measure_controls(run: Run, name: str, work: Mapping[str, LocalWork]) -> list[Measurement]:
    """Train and measure one client under every configured control; changes no state.

    Each control does the client's own `work`: those that share the root that of the tiers below it,
    Local-LoRA all of it.
    """
    root, mine = run.state.root, work[name]
    assert root is not None
    rooted = run.merge(run.base, root.pairs)
    rows: list[Measurement] = []
    for control in run.config.controls:
        alone = control == "local_lora"
        start = run.base if alone else rooted
        head = lone_first_head(run, name) if alone else run.own(name, root.head)
        trained = train_alone(
            run,
            name,
            control,
            start,
            run.fresh_pairs("leaf", name),
            lone_head(run.state.record.labels, run.task.reads, run.clients.train(name), head),
            mine.root + mine.below if alone else mine.below,
            share=run.config.leaf.rate,
            train_pairs=control != "head_only",
        )
        rows += run.measured(name, control, run.merge(start, trained.pairs), trained.head)
    return rows
