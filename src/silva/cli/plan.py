"""`silva plan`: how many instances a traffic needs, and where a step's time goes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silva.cli.traffic import (
    Acceptance,
    Hardware,
    Model,
    Mtp,
    Output,
    Prompt,
    Rate,
    Seed,
    SystemName,
    TrafficFile,
    make_traffic,
)
from silva.cli.writable import check_writable
from silva.supernode.cluster import Cluster

if TYPE_CHECKING:
    from silva.supernode.system import System


class Phase(StrEnum):
    """Whose step is drawn."""

    decode = "decode"
    prefill = "prefill"


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_MOST_REQUESTS = 5000

TtftP99 = Annotated[str, typer.Option(help="Time to the first token to hold.")]
TpotP99 = Annotated[str, typer.Option(help="Time a further token to hold.")]
Requests = Annotated[int, typer.Option(help="Simulate the first so many requests.", min=2)]
Out = Annotated[Path | None, typer.Option(help="Write the plan as one self-contained .html page.")]
Explain = Annotated[bool, typer.Option("--explain", help="Only show where a step's time goes.")]
Batch = Annotated[float, typer.Option(help="With --explain: requests a package.")]
PhaseName = Annotated[
    Phase | None,
    typer.Option(help="With --gantt and --trace: whose step.", show_default="decode"),
]
Gantt = Annotated[Path | None, typer.Option(help="With --explain: draw a layer as a .png.")]
Trace = Annotated[Path | None, typer.Option(help="With --explain: write a step as a Chrome trace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


def register(app: typer.Typer) -> None:
    """Adds `silva plan`."""
    app.command("plan")(plan)


def plan(
    traffic: TrafficFile = None,
    rate: Rate = 10.0,
    prompt: Prompt = 2048.0,
    output: Output = 500.0,
    ttft_p99: TtftP99 = "2s",
    tpot_p99: TpotP99 = "50ms",
    system: SystemName = "cloudmatrix-infer",
    hardware: Hardware = None,
    model: Model = None,
    mtp: Mtp = Cluster.mtp,
    acceptance: Acceptance = Cluster.acceptance,
    requests: Requests = _MOST_REQUESTS,
    seed: Seed = 0,
    out: Out = None,
    explain: Explain = False,
    batch: Batch = 96.0,
    phase: PhaseName = None,
    gantt: Gantt = None,
    trace: Trace = None,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest cluster that holds two latency targets, and what bounds it."""
    from silva.supernode.system import load_system_on

    found = load_system_on(system, hardware, model)
    only = {"phase": phase, "gantt": gantt, "trace": trace}
    _refuse_idle(explain, only, {"traffic": traffic, "out": out})
    for file in (out, gantt, trace):
        if file is not None:
            check_writable(file)
    drafts = {"mtp": mtp, "acceptance": acceptance}
    if explain:
        load = {"batch_per_npu": batch, "kv_len": prompt, "output_len": output, **drafts}
        print(_explained(found, load, (phase or Phase.decode, gantt, trace)))
        return
    from silva.config import build
    from silva.supernode import plan as planner

    made = {"rate": rate, "prompt": prompt, "output": output}
    asked = make_traffic(traffic, made, seed, requests)
    targets = planner.Targets(seconds(ttft_p99, "--ttft-p99"), seconds(tpot_p99, "--tpot-p99"))
    best = planner.make_plan(found, asked, targets, build(Cluster, drafts, "cluster"))
    if out is not None:
        from silva.supernode.page import write_page

        write_page(out, best, targets, asked)
    print(json.dumps(best.as_plain(), indent=2) if as_json else planner.table(best, targets))


def _refuse_idle(explain: bool, only: Mapping[str, object], never: Mapping[str, object]) -> None:
    """ConfigError for what would not be looked at; `only` and `never` go with --explain."""
    from silva.errors import ConfigError

    if explain and only["phase"] is not None and only["gantt"] is only["trace"] is None:
        what = "--phase has no effect without --gantt or --trace"
        raise ConfigError(what, remedy="give one of them, or leave it out")
    for name, value in (never if explain else only).items():
        if value is not None:
            word = "with" if explain else "without"
            what = f"--{name} has no effect {word} --explain"
            raise ConfigError(what, remedy="leave one of them out" if explain else "give both")


def seconds(text: str, where: str) -> float:
    """ "2s" or "50ms" in seconds; ConfigError for anything else."""
    from silva.errors import ConfigError

    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s)", text.strip())
    if match is None or float(match[1]) <= 0:
        remedy = "write a number and a unit, such as 2s or 50ms"
        raise ConfigError(f"{text!r:.40} is no time", where=where, remedy=remedy)
    return float(match[1]) * _UNITS[match[2]]


def _explained(
    system: System, asked: dict[str, Any], files: tuple[Phase, Path | None, Path | None]
) -> str:
    """Tables of both steps; and a picture and a trace of one of them."""
    from silva.config import build
    from silva.supernode import gantt as pictures
    from silva.supernode.decode import decode_step
    from silva.supernode.explain import explain_decode, explain_prefill
    from silva.supernode.prefill import prefill_step
    from silva.supernode.workload import DecodeLoad, PrefillLoad

    load = build(DecodeLoad, asked, "--explain")
    step = decode_step(system, load)
    prompts = build(PrefillLoad, {"prompt_len": load.kv_len}, "--explain")
    prefill = prefill_step(system, prompts)
    phase, gantt, trace = files
    if phase is Phase.decode:
        events, title = step.events, f"decode, {load.batch_per_npu:g} requests a package"
    else:
        events, title = prefill.events, f"prefill, {prefill.tokens_per_npu:,.0f} tokens a package"
    middle = system.network.layers // 2
    if gantt is not None:
        layer = pictures.window(events, range(middle, middle + 1))
        pictures.draw(gantt, layer, f"{system.name}: a layer of {title}")
    if trace is not None:
        pictures.write_trace(trace, events, f"{system.name}: a step of {title}")
    parts = ["decode", explain_decode(step), "", "prefill", explain_prefill(prefill)]
    return "\n".join(parts)
