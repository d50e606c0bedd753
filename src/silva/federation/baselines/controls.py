"""Controls that make the claim testable: the same local work with nothing, or only a root, shared.

    head_only    frozen root, the client's own head
    local_pair   frozen root, a pair and a head of the client's own
    local_lora   a pair and a head of the client's own on the bare base; nothing is ever shared

If one of these reaches the cluster tier, the gain is the client's label prior, not sharing.
"""

from __future__ import annotations

from silva.federation.heads import first_head
from silva.federation.leaves import train_alone
from silva.federation.record import Accuracy
from silva.federation.run import Run


def measure_controls(run: Run, name: str) -> list[Accuracy]:
    """Train and measure one client under every configured control; changes no state.

    Local work equals the client's work in the cascade: controls that share the root train for the
    rounds after it, Local-LoRA for all of them.
    """
    root = run.state.root
    assert root is not None
    total = run.state.total_rounds
    shared = max((r.round for r in run.state.record.rounds if r.stage == "root"), default=0)
    rooted = run.merge(run.base, root.pairs)
    rows: list[Accuracy] = []
    for control in run.config.controls:
        alone = control == "local_lora"
        start = run.base if alone else rooted
        head = first_head(run, [name]) if alone else run.own(name, root.head)
        trained = train_alone(
            run,
            name,
            control,
            start,
            run.fresh_pairs("leaf", name),
            head,
            total if alone else total - shared,
            train_pairs=control != "head_only",
        )
        rows += run.accuracy(name, control, run.merge(start, trained.pairs), trained.head)
    return rows
