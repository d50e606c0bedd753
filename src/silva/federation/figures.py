"""The figures that clients' models are judged by, and how people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from silva.adapters.manifest import ClientEntry, Manifest


@dataclass(frozen=True)
class Figure:
    """One number for a client's test set, and another beside it (`Measurement.value`, `.second`).

    name       of the number, as files have it: "accuracy" is a fraction and shown in percent
    second     of the number beside it
    examples   what clients have so many of to train on
    """

    name: str
    second: str
    examples: str
    percent: bool
    higher_is_better: bool

    @property
    def title(self) -> str:
        return self.name.capitalize()

    @property
    def axis(self) -> str:
        """What stands beside an axis of it."""
        return f"test {self.name} (%)" if self.percent else f"test {self.name}"

    @property
    def percentile(self) -> int:
        """The percentile over clients that is the paper's tail: nine tenths of clients are better."""
        return 10 if self.higher_is_better else 90

    @property
    def spreads(self) -> tuple[str, ...]:
        """Columns of a table over clients: mean, tail, spread, mean of the worst tenth, worst."""
        worst = "min" if self.higher_is_better else "max"
        return ("mean", f"p{self.percentile}", "std", "tail_mean10", worst, f"{self.second}_mean")

    def worst_first(self, values: Sequence[float]) -> np.ndarray:
        """Values [n] in order, the worst first."""
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        return ordered if self.higher_is_better else ordered[::-1]

    def number(self, value: float) -> str:
        """`value` as people write it beside others of its kind, without a unit."""
        return f"{100 * value if self.percent else value:.1f}"

    def shown(self, value: float) -> str:
        """`value` with its unit: 71.3%, or 12.3."""
        return f"{self.number(value)}{'%' if self.percent else ''}"


ACCURACY = Figure("accuracy", "balanced", "images", percent=True, higher_is_better=True)
PERPLEXITY = Figure("perplexity", "bits_per_byte", "windows", percent=False, higher_is_better=False)
FIGURES = {figure.name: figure for figure in (ACCURACY, PERPLEXITY)}
"""By the name that records and summaries have."""


def figure_of(manifest: Manifest) -> Figure:
    """What the clients of a forest were measured by: heads tell classes apart, the rest is text."""
    return PERPLEXITY if manifest.classes is None else ACCURACY


def values_of(client: ClientEntry, figure: Figure) -> Mapping[str, float]:
    """A client's values of one figure, by tier."""
    return {"accuracy": client.accuracy, "perplexity": client.perplexity}[figure.name]
