"""Predictions beside published results: every row of a sheet, its error, and what must hold.

Scored rows are measurements of their own; the rest follows from them by arithmetic and is printed
only. Of an ablation the sign has to be right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from silva.config import read_toml
from silva.supernode.cases import answer
from silva.supernode.sourced import spec_file
from silva.supernode.system import System, load_system

DEFAULT_SYSTEM = "cloudmatrix-infer"

BARS = {"cloudmatrix": (0.06, 0.12), "baselines": (0.15, 0.15)}
"""Largest mean and largest single error of the scored rows, as shares."""


@dataclass(frozen=True)
class Row:
    """One published figure and the prediction of it; `published` None where only a sign is told."""

    name: str
    answer: str
    predicted: float
    published: float | None
    source: str
    scored: bool = False
    holds: bool | None = None
    """Of an ablation: whether the sign is right."""

    @property
    def error(self) -> float | None:
        """Predicted over published, less 1."""
        return None if self.published is None else self.predicted / self.published - 1.0


@dataclass(frozen=True)
class Report:
    """All rows of a sheet."""

    sheet: str
    rows: tuple[Row, ...]
    ablations: tuple[Row, ...]

    @property
    def errors(self) -> list[float]:
        """Sizes of the errors of the scored rows."""
        return [abs(row.error) for row in self.rows if row.scored and row.error is not None]

    @property
    def mean(self) -> float:
        """Mean absolute error of the scored rows."""
        return sum(self.errors) / max(1, len(self.errors))

    @property
    def worst(self) -> float:
        """Largest absolute error of the scored rows."""
        return max(self.errors, default=0.0)

    @property
    def holds(self) -> bool:
        """Whether errors are within the bars and all ablations point the right way."""
        mean, worst = BARS[self.sheet]
        signs = all(row.holds for row in self.ablations)
        return self.mean <= mean and self.worst <= worst and signs

    def as_plain(self) -> dict[str, Any]:
        """Plain JSON types."""
        rows = [
            {
                "name": row.name,
                "answer": row.answer,
                "predicted": row.predicted,
                "published": row.published,
                "error": row.error,
                "scored": row.scored,
                "holds": row.holds,
                "source": row.source,
            }
            for row in (*self.rows, *self.ablations)
        ]
        summary = {"mean": self.mean, "worst": self.worst, "holds": self.holds}
        return {"sheet": self.sheet, "rows": rows, **summary}


def validate(sheet: str) -> Report:
    """Computes every row of a sheet: "cloudmatrix" or "baselines"."""
    content = read_toml(spec_file(sheet, "published"))
    rows = tuple(_row(each) for each in content.get("row", []))
    return Report(sheet, rows, tuple(_ablation(each) for each in content.get("ablation", [])))


def table(report: Report) -> str:
    """The report as text, a line each row."""
    lines = [_line(("", "predicted", "published", "error", "")), *map(_shown, report.rows)]
    lines += ["", _line(("ablation, as a ratio", "predicted", "published", "error", ""))]
    lines += map(_shown, report.ablations)
    mean, worst = BARS[report.sheet]
    verdict = "holds" if report.holds else "does not hold"
    return "\n".join(
        [
            *lines,
            "",
            f"scored rows: mean error {report.mean:.1%} (bar {mean:.0%}), "
            f"worst {report.worst:.1%} (bar {worst:.0%}); {verdict}",
        ]
    )


def _row(each: Mapping[str, Any]) -> Row:
    predicted = answer(_system(each), each["case"], each["name"])[each["answer"]]
    return Row(
        each["name"], each["answer"], predicted, each["published"], each["source"], each["scored"]
    )


def _ablation(each: Mapping[str, Any]) -> Row:
    first, second = (
        answer(_system(each), each[side], each["name"])[each["answer"]]
        for side in ("case", "other")
    )
    ratio = first / second
    holds = ratio > 1.0 if each["sign"] == "above" else ratio < 1.0
    return Row(
        each["name"], each["answer"], ratio, each.get("published"), each["source"], holds=holds
    )


def _system(each: Mapping[str, Any]) -> System:
    return load_system(each.get("system", DEFAULT_SYSTEM))


def _shown(row: Row) -> str:
    error = "" if row.error is None else f"{row.error:+.1%}"
    published = "" if row.published is None else _number(row.published)
    note = "scored" if row.scored else "arithmetic"
    if row.holds is not None:
        note = "right way" if row.holds else "WRONG WAY"
    return _line((f"{row.name} [{row.answer}]", _number(row.predicted), published, error, note))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value < 10 else f"{value:.1f}"


def _line(cells: Sequence[str]) -> str:
    name, predicted, published, error, note = cells
    return f"{name:<62}{predicted:>10}{published:>11}{error:>8}  {note}".rstrip()
