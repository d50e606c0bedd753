"""The report of a run: one JSON file with the numbers, a line a request, plots, and a table to read."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silva import __version__
from silva.config import as_plain
from silva.errors import ConfigError, RunError
from silva.serving.bench.measure import Spread, Summary, meets
from silva.serving.bench.nouns import Outcome
from silva.serving.bench.run import Measured

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMAT = 1
REPORT, REQUESTS, PLOT = "report.json", "requests.jsonl", "plots.png"
LAG_WARNING_MS = 20.0
"""Above this 99th percentile the generator's own lateness is worth a word."""


def refuse_existing(folder: Path) -> None:
    """ConfigError where a report lies already: no measurement is overwritten."""
    if (folder / REPORT).exists():
        raise ConfigError("holds a report already", where=folder, remedy="choose another --out")


def write_report(found: Measured, summary: Summary, folder: Path) -> None:
    """Write `report.json`, `requests.jsonl` and `plots.png` into `folder`, made if missing.

    Raises RunError when the disk refuses. No API key is in any of them.
    """
    from silva.serving.bench.plots import draw

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(_finite(row)) + "\n" for row in request_rows(found))
        _replace(folder / REQUESTS, lines.encode())
        if summary.answered:
            _replace(folder / PLOT, draw(found, summary))
        _replace(folder / REPORT, as_json(found, summary).encode())
    except OSError as error:
        raise RunError(
            f"the report cannot be written: {error.strerror}", where=folder, remedy="choose --out"
        ) from error


def as_json(found: Measured, summary: Summary) -> str:
    """`report` as text that ends with a line break."""
    return json.dumps(_finite(report(found, summary)), indent=2, allow_nan=False) + "\n"


def report(found: Measured, summary: Summary) -> dict[str, Any]:
    """The content of `report.json`: circumstances and numbers, plain JSON types."""
    return {
        "format": FORMAT,
        "benchmark": "serve",
        "loop": "closed" if found.config.load.arrival == "closed" else "open",
        "config": as_plain(found.config),
        "model": found.model,
        "dialect": asdict(found.dialect),
        "keys": found.keys,
        "interrupted": found.interrupted,
        "summary": asdict(summary),
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "silva": __version__,
        },
    }


def request_rows(found: Measured) -> Iterable[dict[str, Any]]:
    """A row for every request, in the order of the schedule."""
    for outcome in sorted(found.outcomes, key=lambda o: o.planned.index):
        yield _row(outcome) | {"met": meets(outcome, found.config.targets)}


def _row(outcome: Outcome) -> dict[str, Any]:
    planned = outcome.planned
    return {
        "index": planned.index,
        "scheduled_s": outcome.scheduled_s,
        "started_s": outcome.started_s,
        "finished_s": outcome.finished_s,
        "error": outcome.error,
        "ttft_s": outcome.ttft_s,
        "tpot_s": outcome.tpot_s,
        "prompt_tokens": outcome.prompt_tokens,
        "cached_tokens": outcome.cached_tokens,
        "output_tokens": outcome.output_tokens,
        "key": planned.key,
        "prefix": planned.prefix,
        **({"timings_ms": outcome.timings} if outcome.timings else {}),
    }


def table(found: Measured, summary: Summary) -> RenderableType:
    """The numbers that people look at: a title, a table, and some lines below it."""
    from rich.console import Group
    from rich.table import Table

    latencies = Table()
    for column in ("", "mean", "p50", "p90", "p99", "max"):
        latencies.add_column(column, justify="left" if not column else "right")
    rows = {
        "time to first token": summary.ttft_ms,
        "time per output token": summary.tpot_ms,
        "between tokens": summary.inter_token_ms,
        "end to end": summary.end_to_end_ms,
    }
    for name, spread in rows.items():
        if spread is not None:
            latencies.add_row(name, *_cells(spread))
    return Group(_title(found), latencies, *lines(found, summary))


def lines(found: Measured, summary: Summary) -> list[str]:
    """What stands below the table."""
    tokens, goodput = summary.tokens, summary.goodput
    offered = "" if summary.offered_rps is None else f" of {summary.offered_rps:.2f} offered"
    said = [
        f"{summary.answered} of {summary.sent} requests answered in {summary.elapsed_s:.1f} s, "
        f"{summary.running_mean:.1f} at a time (most {summary.running_max})",
        f"throughput  {summary.answered_rps:.2f} requests/s{offered}, "
        f"{summary.output_tokens_per_s:.1f} output tokens/s",
    ]
    if goodput is not None:
        wanted = (("first token", goodput.ttft_target_ms), ("each further", goodput.tpot_target_ms))
        asked = ", ".join(f"{name} in {_ms(target)}" for name, target in wanted if target)
        said.append(f"goodput     {goodput.rps:.2f} requests/s, {goodput.share:.1%} with {asked}")
    if tokens.cached is not None and tokens.cached_share is not None:
        said.append(
            f"cached      {tokens.cached_share:.1%} of the prompts' tokens ({tokens.cached})"
        )
    for kind in summary.failures:
        said.append(f"failed      {kind.count} with {kind.kind}: {kind.example}")
    if summary.unfinished:
        said.append(f"interrupted {summary.unfinished} requests were under way and do not count")
    lag = summary.send_lag_ms
    if found.config.load.arrival != "closed" and lag is not None and lag.p99 > LAG_WARNING_MS:
        said.append(
            f"note        the generator itself sent late (99 % within {_ms(lag.p99)}); "
            "latencies include it"
        )
    return said


def _title(found: Measured) -> str:
    load = found.config.load
    kind = {
        "closed": f"{load.concurrency} at a time",
        "trace": f"arrivals of the trace, {load.speed:g} times as fast",
        "bursty": f"bursty, {load.rate:g} a second, cv {load.cv:g}",
    }.get(load.arrival, f"{load.arrival}, {load.rate:g} a second")
    return f"{found.model} at {found.config.url}: {kind}"


def _cells(spread: Spread) -> list[str]:
    return [_ms(getattr(spread, name)) for name in ("mean", "p50", "p90", "p99", "max")]


def _ms(value: float) -> str:
    """Milliseconds with three figures that count, seconds from ten of them on."""
    if value >= 10_000:
        return f"{value / 1e3:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def _finite(content: Any) -> Any:
    """NaN and infinities as null: JSON has no word for them."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    return [_finite(v) for v in content] if isinstance(content, list | tuple) else content


def _replace(path: Path, content: bytes) -> None:
    """Write beside the target, then move into place: nobody reads half a file."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
