"""What a run writes down while it goes, and all that the report is made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one client's test set under one prefix of its path.

    stage and round say when it was measured; round counts rounds of all stages from 1 and is 0 for
    the untrained base. tier is what was loaded: "root", "cluster", "leaf"; for unseen clients also
    "zero_leaf", "after_1", "after_5", and "head_only" for the control.
    """

    client: str
    seen: bool
    tier: str
    stage: str
    round: int
    correct: int
    total: int
    balanced: float = 0.0


@dataclass(frozen=True)
class Round:
    """What clients did together, or one of them alone, and what came of it.

    The class statistics for the first head; one aggregation of the root or of a cluster; the pass in
    which clients that the root never sampled make a basis; one client's leaf with all its passes; one
    newcomer's probe. cluster is -1 where clients have none yet (head, root, bases), or there is none
    that a newcomer could go to.

    seconds is wall-clock time, seconds_compute what each lane of `Run` spent of it on average in
    forward and backward passes and optimiser steps.
    """

    stage: str
    cluster: int
    round: int
    participants: int
    rejected: int
    dropped: int
    loss: float
    rho: float
    trunc_energy: float
    bytes_up: int
    bytes_down: int
    seconds: float
    seconds_compute: float


@dataclass(frozen=True)
class Overlap:
    """Mean over modules of ||Q_X^T Q_Y||_F^2 / r between two tiers of one client's path."""

    client: str
    pair: str
    overlap: float


@dataclass(frozen=True)
class Clustering:
    """The outcome of clustering, with what would have come out by other features and rules.

    distances [n][n] belong to the chosen feature; alternatives rows hold feature, rule, k, ari.
    """

    clients: list[str]
    labels: list[int]
    distances: list[list[float]]
    eigenvalues: list[float]
    k: int
    feature: str
    rule: str
    scores: list[tuple[int, float]] = field(default_factory=list)
    true_groups: list[int] | None = None
    ari: float | None = None
    alternatives: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Routed:
    """Where an unseen client was sent: by probe, and by loss as a cross-check."""

    client: str
    cluster: int
    by_loss: int
    similarities: list[float]
    losses: list[float]


@dataclass(frozen=True)
class RunFacts:
    """What was run, on what: the circumstances that a report states and a repetition needs.

    config is the whole settings tree as plain JSON types, versions maps "silva", "torch", "numpy",
    "python" to version strings, machine is a line about the processor and the memory, data a title
    of the data set, partition the specification that dealt it out, such as "sc_dir(2,3.0)".
    """

    config: dict[str, Any]
    seed: int
    versions: dict[str, str]
    threads: int
    machine: str = ""
    data: str = ""
    partition: str = ""


@dataclass
class RunRecord:
    """Everything the report needs; grows while the run goes and is part of every checkpoint."""

    accuracies: list[Accuracy] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    routed: list[Routed] = field(default_factory=list)
    clustering: Clustering | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def one_cluster(self) -> bool:
        """Clustering put all clients together: there is no cluster tier, a zero leaf is the root."""
        return self.clustering is not None and len(set(self.clustering.labels)) == 1

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunRecord:
        clustering = data.get("clustering")
        if clustering:
            scores = [(int(k), float(v)) for k, v in clustering["scores"]]
            clustering = Clustering(**{**clustering, "scores": scores})
        return cls(
            accuracies=[Accuracy(**row) for row in data["accuracies"]],
            rounds=[Round(**row) for row in data["rounds"]],
            overlaps=[Overlap(**row) for row in data["overlaps"]],
            routed=[Routed(**row) for row in data["routed"]],
            clustering=clustering,
            seconds=dict(data["seconds"]),
        )
