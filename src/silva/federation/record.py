"""What a run writes down while it goes, and all that the report is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from silva.adapters.label_priors import LabelPriors

LARGEST_EXPONENT = 700.0
"""exp of more is no float64; a model that is so far off has no perplexity worth telling."""


@dataclass(frozen=True)
class Occasion:
    """Who was measured, under which prefix of its path, and when.

    stage and round say when it was; round counts rounds of all stages from 1 and is 0 for the
    untrained base. tier is what was loaded: "root", "cluster", "leaf"; for unseen clients also
    "zero_leaf", "after_1", "after_5", and "head_only" for the control.
    """

    client: str
    seen: bool
    tier: str
    stage: str
    round: int


@dataclass(frozen=True)
class Hits:
    """How many of `total` images were classified right; `balanced`: averaged over their classes."""

    correct: int
    total: int
    balanced: float = 0.0

    @property
    def value(self) -> float:
        """Accuracy, a fraction."""
        return self.correct / self.total

    @property
    def second(self) -> float:
        """Accuracy averaged over the classes."""
        return self.balanced


@dataclass(frozen=True)
class Surprise:
    """Cross entropy (nats, summed) of `total` tokens, which stand for so many `bytes` of text."""

    loss: float
    total: int
    bytes: int

    @property
    def value(self) -> float:
        """Perplexity: exp of the mean cross entropy."""
        return math.exp(min(self.loss / self.total, LARGEST_EXPONENT))

    @property
    def second(self) -> float:
        """Bits per byte, which does not depend on how the text was cut into tokens."""
        return self.loss / math.log(2) / max(self.bytes, 1)


@dataclass(frozen=True)
class Accuracy(Hits, Occasion):
    """Accuracy of one client's test set under one prefix of its path."""


@dataclass(frozen=True)
class Perplexity(Surprise, Occasion):
    """Perplexity of one client's test set under one prefix of its path."""


Score = Hits | Surprise
"""What one measurement of a test set gives: `value`, `second` beside it, of `total` examples."""
Measurement = Accuracy | Perplexity
"""A score with its occasion: a row of the report."""
ROWS: dict[str, type[Measurement]] = {"accuracy": Accuracy, "perplexity": Perplexity}
"""The rows of each figure (`silva.federation.figures`)."""


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
    """Everything the report needs; grows while the run goes and is part of every checkpoint.

    figure names what the measurements are (`silva.federation.figures`). labels: what heads assume of
    clients' classes, once there are clusters.
    """

    measurements: list[Measurement] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    routed: list[Routed] = field(default_factory=list)
    clustering: Clustering | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    figure: str = "accuracy"
    labels: LabelPriors | None = None

    @property
    def one_cluster(self) -> bool:
        """Clustering put all clients together: there is no cluster tier, a zero leaf is the root."""
        return self.clustering is not None and len(set(self.clustering.labels)) == 1

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is its inverse. Lists within the rows are not copied."""

        def plain(value: Any) -> Any:
            if isinstance(value, list):
                return [dict(vars(row)) for row in value]
            return dict(vars(value)) if is_dataclass(value) else value

        return {name: plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunRecord:
        clustering = data.get("clustering")
        if clustering:
            scores = [(int(k), float(v)) for k, v in clustering["scores"]]
            clustering = Clustering(**{**clustering, "scores": scores})
        labels = data.get("labels")
        # Before there were other figures than accuracy, a state did not name its own.
        figure = data.get("figure", "accuracy")
        rows = data["measurements"] if "measurements" in data else data["accuracies"]
        return cls(
            figure=figure,
            measurements=[ROWS[figure](**row) for row in rows],
            rounds=[Round(**row) for row in data["rounds"]],
            overlaps=[Overlap(**row) for row in data["overlaps"]],
            routed=[Routed(**row) for row in data["routed"]],
            clustering=clustering,
            seconds=dict(data["seconds"]),
            labels=LabelPriors(**labels) if labels else None,
        )
