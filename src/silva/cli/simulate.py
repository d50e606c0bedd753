"""`silva simulate`: one cluster under traffic from a trace, or made up."""

from __future__ import annotations

import json
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
from silva.config import build
from silva.supernode.cluster import Cluster, Failure

if TYPE_CHECKING:
    from silva.supernode.records import Records

FILES = ("requests.parquet", "queues.parquet", "summary.json", "simulation.png")
"""What `write` leaves in the folder."""

ShapeName = Annotated[str, typer.Option(help="Without a trace: poisson, bursty or sessions.")]
Seconds = Annotated[float, typer.Option(help="Without a trace: its length in seconds.")]
Prefill = Annotated[int, typer.Option(help="Prefill instances; 0: decode does both.")]
Decode = Annotated[int, typer.Option(help="Decode instances.")]
BatchPerNpu = Annotated[int, typer.Option(help="Most requests a package decodes.")]
Tpot = Annotated[float, typer.Option(help="Seconds a token to hold; 0: none.")]
CacheGb = Annotated[float, typer.Option(help="Memory of the context cache.")]
Caches = Annotated[int, typer.Option(help="Instances that share it.")]
CachePlane = Annotated[str, typer.Option(help="Plane to it: ub or vpc.")]
ModelCache = Annotated[
    str, typer.Option(help="Where lost instances load their model from: none, local or ems.")
]
Fail = Annotated[
    list[str] | None,
    typer.Option(
        help="Lose something: WHAT:NUMBER:AT:FOR, in seconds; "
        "prefill, decode, cache, die, node or switch."
    ),
]
ExpertSkew = Annotated[
    float, typer.Option(help="Exponent of the experts' popularity; 0: as the system says.")
]
ScaleWindow = Annotated[
    float, typer.Option(help="Seconds after which instances may change roles; 0: never.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for requests.parquet, queues.parquet, summary.json, a plot."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


def register(app: typer.Typer) -> None:
    """Adds `silva simulate`."""
    app.command("simulate")(simulate)


def simulate(
    traffic: TrafficFile = None,
    shape: ShapeName = "poisson",
    rate: Rate = 10.0,
    seconds: Seconds = 60.0,
    prompt: Prompt = 2048.0,
    output: Output = 500.0,
    seed: Seed = 0,
    system: SystemName = "cloudmatrix-infer",
    hardware: Hardware = None,
    model: Model = None,
    prefill: Prefill = 6,
    decode: Decode = 1,
    batch_per_npu: BatchPerNpu = 96,
    tpot: Tpot = 0.0,
    cache_gb: CacheGb = 0.0,
    caches: Caches = 4,
    cache_plane: CachePlane = "ub",
    model_cache: ModelCache = "ems",
    mtp: Mtp = Cluster.mtp,
    acceptance: Acceptance = Cluster.acceptance,
    expert_skew: ExpertSkew = 0.0,
    scale_window: ScaleWindow = 0.0,
    fail: Fail = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a cluster of instances around the server's own scheduler."""
    from silva.supernode.fleet import make_fleet
    from silva.supernode.simulate import Simulation
    from silva.supernode.system import load_system_on

    made = {"kind": shape, "rate": rate, "seconds": seconds, "prompt": prompt, "output": output}
    asked = make_traffic(traffic, made, seed)
    limits = {
        "system": system,
        "prefill": prefill,
        "decode": decode,
        "batch_per_npu": batch_per_npu,
        "tpot_s": tpot,
        "cache_gb": cache_gb,
        "caches": caches,
        "cache_plane": cache_plane,
        "model_cache": model_cache,
        "mtp": mtp,
        "acceptance": acceptance,
        "expert_skew": expert_skew,
        "scale_window_s": scale_window,
    }
    failures = tuple(failure(text) for text in fail or [])
    found = load_system_on(system, hardware, model)
    cluster = build(Cluster, limits, "cluster")
    simulation = Simulation(cluster, found, asked, make_fleet(cluster, found, asked), failures)
    if out is not None:
        _make_folder(out)
    records = simulation.run()
    if out is not None:
        write(records, out)
    print(json.dumps(records.summary(), indent=2) if as_json else lines(records.summary()))


def write(records: Records, out: Path) -> None:
    """A row a request, the queues, the summary and a plot in a folder."""
    from silva.supernode.pictures import draw_records

    requests, queues, summary, picture = (out / name for name in FILES)
    records.write_parquet(requests)
    records.write_queues(queues)
    records.write_summary(summary)
    draw_records(picture, records)


def _make_folder(out: Path) -> None:
    """Before time is spent on what goes into it; ConfigError where it cannot be written."""
    from silva.errors import ConfigError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}", where=out) from error
    for name in FILES:
        check_writable(out / name)


def failure(text: str) -> Failure:
    """ "decode:0:10:60" as a failure; ConfigError for anything else."""
    from silva.errors import ConfigError

    try:
        role, instance, at_s, for_s = text.split(":")
        values = {
            "role": role,
            "instance": int(instance),
            "at_s": float(at_s),
            "for_s": float(for_s),
        }
    except ValueError as error:
        remedy = "write WHAT:NUMBER:AT:FOR such as decode:0:10:60"
        raise ConfigError(f"{text!r:.60} is no failure", where="--fail", remedy=remedy) from error
    return build(Failure, values, "--fail")


def lines(summary: dict[str, Any]) -> str:
    """The summary as text."""
    rows = [
        ("requests", f"{summary['finished']:,} of {summary['requests']:,}"),
        ("seconds", f"{summary['seconds']:,.1f}"),
        ("requests a second", f"{summary['requests_per_s']:,.2f}"),
        ("answer tokens a second", f"{summary['output_tokens_per_s']:,.0f}"),
        ("first token", _milliseconds(summary["ttft_ms"])),
        ("time a token", _milliseconds(summary["tpot_ms"])),
        ("tokens from the cache", f"{summary['cached_tokens']:,}"),
        ("longest queue", f"{summary['largest_queue']:,} in a sample"),
        (
            "keys and values",
            f"{summary['largest_kv_share']:.0%} of all memory in the fullest sample",
        ),
    ]
    rows += [("changes of roles", f"{len(summary['moves']):,}")] if summary["moves"] else []
    rows += [(f"busy {name}", f"{share:.0%}") for name, share in summary["busy"].items()]
    rows += [(f"links of {name}", f"{share:.1%}") for name, share in summary["links"].items()]
    return "\n".join(f"{name:<24}{value}" for name, value in rows)


def _milliseconds(found: dict[str, float | None]) -> str:
    shown = (f"{name} {value:,.1f}" for name, value in found.items() if value is not None)
    return f"{', '.join(shown)} ms" if found["mean"] is not None else "none"
