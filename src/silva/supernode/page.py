"""A plan as one self-contained page: what to buy, what else holds, and pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from silva.supernode.decode import decode_step
from silva.supernode.gantt import draw, window
from silva.supernode.pictures import draw_records
from silva.supernode.plan import Plan, Targets, Trial, table
from silva.supernode.prefill import prefill_step
from silva.supernode.schedule import Event
from silva.supernode.simulate import simulate
from silva.supernode.system import System
from silva.supernode.traces import Traffic
from silva.supernode.workload import DecodeLoad, PrefillLoad

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f4f4}"
    "img{max-width:100%}pre{overflow-x:auto}"
)


def write_page(path: Path, plan: Plan, targets: Targets, traffic: Traffic) -> None:
    """Writes the page; it needs nothing from anywhere else."""
    best = plan.best
    records = simulate(best.cluster, traffic, (), best.system)
    queues = io.BytesIO()
    draw_records(queues, records)
    load = DecodeLoad(
        batch_per_npu=float(best.cluster.batch_per_npu),
        kv_len=traffic.mean_prompt,
        output_len=traffic.mean_output,
        mtp=best.cluster.mtp,
        acceptance=best.cluster.acceptance,
    )
    batch = PrefillLoad(
        tokens_per_npu=float(best.cluster.prefill_tokens_per_npu), prompt_len=traffic.mean_prompt
    )
    answers = _layer(
        best.system,
        decode_step(best.system, load).events,
        f"a layer of decode at {best.cluster.batch_per_npu} requests a package",
    )
    prompts = _layer(
        best.system,
        prefill_step(best.system, batch).events,
        f"a layer of prefill at {batch.tokens_per_npu:,.0f} tokens a package",
    )
    rows = [("best", best)]
    rows += [("also holds", trial) for trial in plan.frontier if trial != best]
    rows += list(plan.neighbours.items())
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>silva plan</title>",
        f"<style>{_STYLE}</style><h1>Plan: {html.escape(best.name)}</h1>",
        f"<p>{len(traffic):,} requests in {traffic.seconds:,.0f} s, on average "
        f"{traffic.mean_prompt:,.0f} tokens in and {traffic.mean_output:,.0f} out. "
        f"System {html.escape(best.system.name)} on {html.escape(best.system.hardware)}.</p>",
        _rows(rows),
        f"<p>Binding: {html.escape(best.binding)}.</p>",
        _image("Queues and latencies of the best", queues),
        _image("Where a layer's time goes in decode", answers),
        _image("Where a layer's time goes in prefill", prompts),
        f"<h2>As text</h2><pre>{html.escape(table(plan, targets))}</pre></html>",
    ]
    path.write_text("\n".join(parts), encoding="utf-8")


def _layer(system: System, events: Sequence[Event], title: str) -> io.BytesIO:
    """The layer in the middle of a step, drawn."""
    picture, middle = io.BytesIO(), system.network.layers // 2
    draw(picture, window(events, range(middle, middle + 1)), title)
    return picture


def _rows(rows: list[tuple[str, Trial]]) -> str:
    head = "<tr><th>cluster<th>nodes<th>TTFT p99, s<th>TPOT p99, ms<th>goodput<th>holds</tr>"
    body = "".join(
        f"<tr><td>{html.escape(name)}: {html.escape(trial.name)}<td>{trial.nodes}"
        f"<td>{trial.ttft_s:.2f}<td>{trial.tpot_s * 1e3:.1f}<td>{trial.goodput:.2f}"
        f"<td>{'yes' if trial.holds else 'no'}</tr>"
        for name, trial in rows
    )
    return f"<table>{head}{body}</table>"


def _image(title: str, content: io.BytesIO) -> str:
    data = base64.b64encode(content.getvalue()).decode()
    return f"<h2>{html.escape(title)}</h2><img alt='' src='data:image/png;base64,{data}'>"
