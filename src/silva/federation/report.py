"""The report of a run: summary, metrics, tables, plots and circumstances, in one folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from io import BytesIO
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from silva.federation.figures import FIGURES
from silva.federation.plots import plot_names, render_plots
from silva.federation.record import ROWS, Measurement, Round, RunFacts, RunRecord
from silva.federation.summary import summarise
from silva.federation.tables import tables_as_dict, tables_as_markdown

_ARROW_TYPES = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}


def write_report(
    record: RunRecord,
    facts: RunFacts,
    folder: Path,
    after: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the whole report into folder (made if missing) and return the summary.

    Every file is replaced atomically, so a reader never meets half of one; plots of an earlier
    report whose data are no longer there are removed. Equal input gives equal JSON and Markdown.
    `after` hears how many of how many plots are drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(record)
    tables = tables_as_markdown(record, facts).encode()
    _replace(folder / "summary.json", _json(summary))
    _replace(folder / "run.json", _json(asdict(facts)))
    _replace(folder / "tables.json", _json(tables_as_dict(record)))
    _replace(folder / "tables.md", tables)
    _replace(
        folder / "metrics.parquet", _parquet(metrics_table(record.measurements, record.figure))
    )
    _replace(folder / "rounds.parquet", _parquet(_arrow(record.rounds, Round)))
    plots = render_plots(record, facts, after)
    for name in (name for figure in FIGURES for name in plot_names(figure)):
        if name in plots:
            _replace(folder / name, plots[name])
        else:
            (folder / name).unlink(missing_ok=True)
    return summary


def metrics_table(rows: Sequence[Measurement], figure: str = "accuracy") -> pa.Table:
    """One row per measurement: its fields, and the numbers they give (null without test data)."""
    table = _arrow(rows, ROWS[figure])
    numbers = {figure: [row.value if row.total else None for row in rows]}
    second = FIGURES[figure].second
    if second not in table.column_names:
        numbers[second] = [row.second if row.total else None for row in rows]
    for name, values in numbers.items():
        table = table.append_column(name, pa.array(values, type=pa.float64()))
    return table


def _arrow(rows: Sequence[Any], noun: type) -> pa.Table:
    """Rows of one dataclass as a table whose columns are typed even when there are no rows."""
    hints = get_type_hints(noun)
    schema = pa.schema([(f.name, _ARROW_TYPES[hints[f.name]]) for f in fields(noun)])
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def _parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _json(content: Any) -> bytes:
    text = json.dumps(_finite(content), indent=2, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def _finite(content: Any) -> Any:
    """NaN and infinities as null: JSON has no word for them."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content


def _replace(path: Path, content: bytes) -> None:
    """Write to a file beside the target, then move it into place in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
