"""`silva simulate`: one cluster under traffic from a trace, or made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from silva.supernode.records import Records
    from silva.supernode.traces import Traffic

TrafficFile = Annotated[
    Path | None, typer.Option(help="A trace: Azure's .csv or Mooncake's .jsonl.")
]
ShapeName = Annotated[
    str, typer.Option(help="Made-up traffic instead: poisson, bursty or sessions.")
]
Rate = Annotated[float, typer.Option(help="Its requests a second.")]
Seconds = Annotated[float, typer.Option(help="Its length.")]
Prompt = Annotated[float, typer.Option(help="Its mean tokens of a prompt.")]
Output = Annotated[float, typer.Option(help="Its mean tokens of an answer.")]
Seed = Annotated[int, typer.Option(help="Its seed.", min=0)]
SystemName = Annotated[str, typer.Option(help="System: a name or a .toml file.")]
Hardware = Annotated[
    str | None, typer.Option(help="Another machine for it: a name or a .toml file.")
]
Model = Annotated[str | None, typer.Option(help="Another model for it: a name or a .toml file.")]
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
Mtp = Annotated[
    bool, typer.Option("--mtp/--no-mtp", help="Whether drafts are verified, where there are any.")
]
Acceptance = Annotated[float, typer.Option(help="Share of the drafts that hold.")]
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
    mtp: Mtp = True,
    acceptance: Acceptance = 0.7,
    expert_skew: ExpertSkew = 0.0,
    scale_window: ScaleWindow = 0.0,
    fail: Fail = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a cluster of instances around the server's own scheduler."""
    from silva.config import build
    from silva.supernode.cluster import Cluster
    from silva.supernode.simulate import simulate as run
    from silva.supernode.system import load_system_on

    made = {"kind": shape, "rate": rate, "seconds": seconds, "prompt": prompt, "output": output}
    asked = _requests(traffic, made, seed)
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
    if out is not None:
        _make_folder(out)
    records = run(build(Cluster, limits, "cluster"), asked, failures, found)
    if out is not None:
        write(records, out)
    print(json.dumps(records.summary(), indent=2) if as_json else lines(records.summary()))


def _requests(file: Path | None, made: dict[str, Any], seed: int) -> Traffic:
    """Those of a trace, or made-up ones."""
    from silva.config import build
    from silva.supernode.generate import Shape, generate
    from silva.supernode.traces import read_traffic

    return read_traffic(file) if file is not None else generate(build(Shape, made, "traffic"), seed)


def write(records: Records, out: Path) -> None:
    """A row a request, the queues, the summary and a plot in a folder."""
    from silva.supernode.pictures import draw_records

    records.write_parquet(out / "requests.parquet")
    records.write_queues(out / "queues.parquet")
    records.write_summary(out / "summary.json")
    draw_records(out / "simulation.png", records)


def _make_folder(out: Path) -> None:
    """Before time is spent on what goes into it; ConfigError where it cannot be written."""
    from silva.cli.profile import check_writable
    from silva.errors import ConfigError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}", where=out) from error
    check_writable(out / "summary.json")


def failure(text: str) -> Any:
    """ "decode:0:10:60" as a failure; ConfigError for anything else."""
    from silva.config import build
    from silva.errors import ConfigError
    from silva.supernode.cluster import Failure

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
        ("largest queue", f"{summary['largest_queue']:,}"),
        ("keys and values", f"{summary['largest_kv_share']:.0%} of the memory at most"),
    ]
    rows += [("changes of roles", f"{len(summary['moves']):,}")] if summary["moves"] else []
    rows += [(f"busy {name}", f"{share:.0%}") for name, share in summary["busy"].items()]
    rows += [(f"links of {name}", f"{share:.1%}") for name, share in summary["links"].items()]
    return "\n".join(f"{name:<24}{value}" for name, value in rows)


def _milliseconds(found: dict[str, float | None]) -> str:
    shown = (f"{name} {value:,.1f}" for name, value in found.items() if value is not None)
    return f"{', '.join(shown)} ms" if found["mean"] is not None else "none"
