"""`silva plan`: how many instances a traffic needs, and where a step's time goes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from silva.supernode.system import System

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_MOST_REQUESTS = 5000

TrafficFile = Annotated[
    Path | None, typer.Option(help="A trace: Azure's .csv or Mooncake's .jsonl.")
]
Rate = Annotated[float, typer.Option(help="Without a trace: requests a second.")]
Prompt = Annotated[float, typer.Option(help="Without a trace: mean prompt tokens.")]
Output = Annotated[float, typer.Option(help="Without a trace: mean answer tokens.")]
TtftP99 = Annotated[str, typer.Option(help="Time to the first token to hold.")]
TpotP99 = Annotated[str, typer.Option(help="Time a further token to hold.")]
SystemName = Annotated[str, typer.Option(help="System: a name or a .toml file.")]
Hardware = Annotated[
    str | None, typer.Option(help="Another machine for it: a name or a .toml file.")
]
Model = Annotated[str | None, typer.Option(help="Another model for it: a name or a .toml file.")]
Requests = Annotated[int, typer.Option(help="Simulate the first so many requests.", min=2)]
Seed = Annotated[int, typer.Option(help="Seed of made-up traffic.", min=0)]
Out = Annotated[Path | None, typer.Option(help="Write the plan as one self-contained .html page.")]
Explain = Annotated[bool, typer.Option("--explain", help="Only show where a step's time goes.")]
Batch = Annotated[float, typer.Option(help="With --explain: requests a package.")]
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
    requests: Requests = _MOST_REQUESTS,
    seed: Seed = 0,
    out: Out = None,
    explain: Explain = False,
    batch: Batch = 96.0,
    gantt: Gantt = None,
    trace: Trace = None,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest cluster that holds two latency targets, and what bounds it."""
    from dataclasses import replace

    from silva.supernode.system import load_system

    found = load_system(system)
    found = replace(found, hardware=hardware or found.hardware, model=model or found.model)
    _refuse_idle(explain, {"gantt": gantt, "trace": trace}, {"traffic": traffic, "out": out})
    if explain:
        print(_explained(found, batch, prompt, output, gantt, trace))
        return
    from silva.config import build
    from silva.supernode import plan as planner
    from silva.supernode.generate import Shape, generate
    from silva.supernode.traces import read_traffic

    if traffic is not None:
        asked = read_traffic(traffic)
    else:
        made = {"rate": rate, "prompt": prompt, "output": output}
        shape = build(Shape, made, "traffic")
        asked = generate(build(Shape, {**made, "seconds": requests / shape.rate}, "traffic"), seed)
    targets = planner.Targets(seconds(ttft_p99, "--ttft-p99"), seconds(tpot_p99, "--tpot-p99"))
    best = planner.make_plan(found, asked.first(requests), targets)
    if out is not None:
        from silva.supernode.page import write_page

        write_page(out, best, targets, asked.first(requests))
    print(json.dumps(best.as_plain(), indent=2) if as_json else planner.table(best, targets))


def _refuse_idle(
    explain: bool, only: dict[str, Path | None], never: dict[str, Path | None]
) -> None:
    """ConfigError for a file that would not be looked at; `only` and `never` go with --explain."""
    from silva.errors import ConfigError

    for name, path in (never if explain else only).items():
        if path is not None:
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
    system: System,
    batch: float,
    prompt: float,
    output: float,
    gantt: Path | None,
    trace: Path | None,
) -> str:
    from silva.config import build
    from silva.supernode import gantt as pictures
    from silva.supernode.decode import decode_step
    from silva.supernode.explain import explain_decode, explain_prefill
    from silva.supernode.prefill import prefill_step
    from silva.supernode.workload import DecodeLoad, PrefillLoad

    values = {"batch_per_npu": batch, "kv_len": prompt, "output_len": output}
    step = decode_step(system, build(DecodeLoad, values, "--explain"))
    middle = system.network.layers // 2
    title = f"{system.name}: a layer of decode, {batch:g} requests a package"
    if gantt is not None:
        pictures.draw(gantt, pictures.window(step.events, range(middle, middle + 1)), title)
    if trace is not None:
        pictures.write_trace(trace, step.events, title)
    prefill = prefill_step(system, build(PrefillLoad, {"prompt_len": prompt}, "--explain"))
    parts = ["decode", explain_decode(step), "", "prefill", explain_prefill(prefill)]
    return "\n".join(parts)
