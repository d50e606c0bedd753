"""The tables of a run, once as data (tables.json) and once for people (tables.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from silva.federation.figures import FIGURES
from silva.federation.record import RunFacts, RunRecord
from silva.federation.summary import (
    CONTROL,
    TIERS,
    control_names,
    latest,
    leaf_epochs,
    stage_names,
    stage_seconds,
    stage_traffic,
    tier_summary,
    unseen_tiers,
)

Cell = str | int | float | None

TIER_TITLES = {
    CONTROL: "frozen root + own head",
    "local_pair": "frozen root + own pair and head",
    "local_lora": "own pair and head, nothing shared",
    "root": "root",
    "cluster": "root + cluster",
    "leaf": "root + cluster + leaf",
    "zero_leaf": "root + cluster, no leaf",
}
"""What a tier name of the record means, in words."""
ONE_CLUSTER = {"leaf": "root + leaf"}
"""Where that is another thing in a run that found one cluster."""


@dataclass(frozen=True)
class Table:
    """Rows under named columns; units are in the column names, accuracies are fractions."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    percent: frozenset[str] = frozenset()
    """Columns that `markdown` shows as percentages."""

    def as_dict(self) -> dict[str, Any]:
        """Title and one mapping a row."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows}

    def markdown(self) -> str:
        """A GitHub table, text to the left and numbers to the right."""
        percent = [column in self.percent for column in self.columns]
        names = [f"{c} %" if p else c for c, p in zip(self.columns, percent, strict=True)]
        sides = [
            ":--" if any(isinstance(row[i], str) for row in self.rows) else "--:"
            for i in range(len(names))
        ]
        cells = [
            [_shown(cell, p) for cell, p in zip(row, percent, strict=True)] for row in self.rows
        ]
        lines = [" | ".join(line) for line in [names, sides, *cells]]
        return f"## {self.title}\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"


def make_tables(record: RunRecord) -> dict[str, Table]:
    """The tables that the record has rows for, by name, in reading order."""
    controls = control_names(latest(record.measurements, seen=True))
    tables = {
        "tiers": _tier_table(record, "per tier, seen clients", (*controls, *TIERS), seen=True),
        "unseen": _tier_table(
            record, "of clients never seen in training", unseen_tiers(record), seen=False
        ),
        "clustering": _clustering_table(record),
        "scores": _score_table(record),
        "routing": _routing_table(record),
        "stages": _stage_table(record),
    }
    return {name: table for name, table in tables.items() if table.rows}


def tables_as_dict(record: RunRecord) -> dict[str, Any]:
    """The content of tables.json: every table, and the clustering's eigenvalues, all of them."""
    plain: dict[str, Any] = {name: table.as_dict() for name, table in make_tables(record).items()}
    plain["eigenvalues"] = record.clustering.eigenvalues if record.clustering else []
    return plain


def tables_as_markdown(record: RunRecord, facts: RunFacts) -> str:
    """The content of tables.md."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items()))
    about = {
        "data": facts.data,
        "partition": f"`{facts.partition}`" if facts.partition else "",
        "seed": str(facts.seed),
        "threads": str(facts.threads),
        "machine": facts.machine,
        "versions": versions,
    }
    parts = ["# Tuning run\n"]
    parts.append("\n".join(f"- {name}: {_escaped(text)}" for name, text in about.items() if text))
    parts[-1] += "\n"
    parts += [table.markdown() for table in make_tables(record).values()]
    if record.clustering and record.clustering.eigenvalues:
        values = ", ".join(f"{value:.6g}" for value in record.clustering.eigenvalues)
        parts.append(f"## Eigenvalues of the client graph\n\n{values}\n")
    return "\n".join(parts)


def _tier_table(record: RunRecord, of_what: str, tiers: tuple[str, ...], *, seen: bool) -> Table:
    measured, figure = latest(record.measurements, seen=seen), FIGURES[record.figure]
    titles = {**TIER_TITLES, **(ONE_CLUSTER if record.one_cluster else {})}
    rows = []
    for tier in tiers:
        if tier in measured:
            summary = tier_summary(measured[tier], figure)
            name, count = titles.get(tier) or _title(tier), len(measured[tier])
            rows.append((name, count, *(summary[column] for column in figure.spreads)))
    columns = ("tier", "clients", *figure.spreads)
    percent = frozenset(figure.spreads if figure.percent else ())
    return Table(f"{figure.title} {of_what}", columns, tuple(rows), percent)


def _title(tier: str) -> str:
    """The words for a leaf after some epochs; whatever has no words keeps its name."""
    epochs = leaf_epochs(tier)
    return f"leaf after {epochs} epoch{'' if epochs == 1 else 's'}" if epochs else tier


def _clustering_table(record: RunRecord) -> Table:
    """The chosen clustering first, then what other features and rules would have given."""
    rows: list[tuple[Cell, ...]] = []
    found = record.clustering
    if found:
        rows.append((found.feature, found.rule, found.k, found.ari, "yes"))
        for other in found.alternatives:
            if (other["feature"], other["rule"]) != (found.feature, found.rule):
                ari = other.get("ari")
                rows.append((other["feature"], other["rule"], other["k"], ari, "no"))
    columns = ("feature", "rule", "K", "adjusted Rand index", "chosen")
    return Table("Clustering, by feature and rule", columns, tuple(rows))


def _score_table(record: RunRecord) -> Table:
    """What the chosen rule saw: its score of every number of clusters it considered."""
    found = record.clustering
    scores = found.scores if found else []
    rows = tuple((k, score, "chosen" if found and k == found.k else "") for k, score in scores)
    rule = found.rule if found else ""
    return Table(f"Score of the rule {rule} by number of clusters", ("K", "score", ""), rows)


def _routing_table(record: RunRecord) -> Table:
    rows = tuple(
        (row.client, row.cluster, row.by_loss, max(row.similarities, default=None))
        for row in record.routed
    )
    columns = ("client", "cluster by probe", "cluster by loss", "similarity to the nearest")
    return Table("Where unseen clients were sent", columns, rows)


def _stage_table(record: RunRecord) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for stage in stage_names(record):
        rounds = [row for row in record.rounds if row.stage == stage]
        seconds = stage_seconds(record, stage)
        if not rounds and seconds is None:
            continue
        up, down = stage_traffic(rounds, stage)
        rows.append(
            (
                stage,
                len({row.round for row in rounds}),
                sum(row.rejected for row in rounds),
                sum(row.dropped for row in rounds),
                up,
                down,
                seconds,
                _overhead(sum(r.seconds for r in rounds), sum(r.seconds_compute for r in rounds)),
            )
        )
    columns = ("stage", "rounds", "rejected", "dropped", "bytes up", "bytes down", "seconds")
    title = "Traffic and time per stage"
    return Table(title, (*columns, "overhead"), tuple(rows), frozenset({"overhead"}))


def _overhead(seconds: float, compute: float) -> float | None:
    """Share of the rounds' time outside forward, backward and optimiser steps."""
    return 1.0 - compute / seconds if seconds > 0 else None


def _shown(cell: Cell, percent: bool) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return _escaped(cell)
    if percent:
        return f"{100 * cell:.1f}"
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.3f}"


def _escaped(text: str) -> str:
    """Text from outside (paths, client names) must not break out of its cell or line."""
    return " ".join(text.split()).replace("|", "\\|")
