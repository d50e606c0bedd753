"""`silva bench serve`: load for any OpenAI-compatible server, and what it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silva.amounts import parse_seconds
from silva.cli.assignment import assignment
from silva.errors import ConfigError

if TYPE_CHECKING:
    from silva.serving.bench.config import BenchConfig
    from silva.serving.bench.run import Progress

EXIT_INTERRUPTED = 130
FIELDS = {
    "url": "url",
    "model": "model",
    "rate": "load.rate",
    "cv": "load.cv",
    "concurrency": "load.concurrency",
    "requests": "load.requests",
    "warmup": "load.warmup",
    "speed": "load.speed",
    "input_": "work.input",
    "output": "work.output",
    "prefix_tokens": "work.prefix_tokens",
    "prefixes": "work.prefixes",
    "prefix_share": "work.prefix_share",
    "endpoint": "endpoint",
    "prompts": "prompts",
    "seed": "seed",
}
"""Options that are settings as they stand, and their names in `BenchConfig`."""
TIMES = {
    "duration": "load.duration_s",
    "ttft_target": "targets.ttft_s",
    "tpot_target": "targets.tpot_s",
    "timeout": "timeout_s",
}
"""Options that are times, such as 50ms."""
NEEDS = {
    "rate": ("poisson", "bursty", "constant"),
    "cv": ("bursty",),
    "concurrency": ("closed",),
    "speed": ("trace",),
}
"""The kinds of arrivals that an option is for."""


def register(app: typer.Typer) -> None:
    """Adds `silva bench` and its commands."""
    group = typer.Typer(help="Measure servers under load.")
    group.callback()(lambda: None)  # one command alone would take the group's place
    group.command("serve")(serve)
    app.add_typer(group, name="bench", no_args_is_help=True)


def serve(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option(help="Where the server answers.")] = None,
    model: Annotated[str | None, typer.Option(help="Default: the first it lists.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="API key; several share the load.")] = None,
    keys_file: Annotated[Path | None, typer.Option(help="API keys, a line each.")] = None,
    rate: Annotated[float | None, typer.Option(help="Open loop: arrivals a second.")] = None,
    arrival: Annotated[
        str | None, typer.Option(help="poisson, bursty, constant, trace or closed.")
    ] = None,
    cv: Annotated[float | None, typer.Option(help="bursty: spread of gaps, in means.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Closed loop: requests under way.")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Requests at most.")] = None,
    duration: Annotated[str | None, typer.Option(help="Requests start for so long: 60s.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Requests before, not counted.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Mooncake JSONL or Azure CSV.")] = None,
    speed: Annotated[float | None, typer.Option(help="Play a trace so many times faster.")] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", help="Prompt tokens: 512, uniform(1,900), lognormal(512,0.8)."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Answer tokens, likewise.")] = None,
    prefix_tokens: Annotated[
        int | None, typer.Option(help="Tokens put before the prompt, shared.")
    ] = None,
    prefixes: Annotated[int | None, typer.Option(help="Different prefixes.")] = None,
    prefix_share: Annotated[float | None, typer.Option(help="Requests that have one.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="completions or chat.")] = None,
    prompts: Annotated[str | None, typer.Option(help="auto, tokens or text.")] = None,
    ttft_target: Annotated[str | None, typer.Option(help="First token in, e.g. 2s.")] = None,
    tpot_target: Annotated[str | None, typer.Option(help="Each token after in: 50ms.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Give a request up after.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides schedule and prompts.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings; flags override.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting: load.warmup=0.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report and plots.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Send load to an OpenAI-compatible server and report latencies, throughput and goodput.

    An open loop (--rate, --trace) sends at its own times and counts from them; a closed one
    (--concurrency) keeps so many requests under way. Ctrl-C reports what was measured.
    """
    values = ctx.params
    flags = {field: values[name] for name, field in FIELDS.items()}
    for name, field in TIMES.items():
        if values[name] is not None:
            flags[field] = parse_seconds(values[name], f"--{name.replace('_', '-')}")
    flags["load.arrival"] = arrival or _implied(rate, concurrency, trace)
    flags["work.trace"] = None if trace is None else str(trace)
    given = {**flags, **dict(assignment(text) for text in setting or [])}
    settings = _settings(given, config)
    _refuse_idle({name: values[name] for name in NEEDS}, settings.load.arrival)
    _run(settings, _keys(key or [], keys_file), out, as_json)


def _settings(given: dict[str, Any], config: Path | None) -> BenchConfig:
    """A file's settings under those of flags."""
    from silva.config import build, overlay, read_toml
    from silva.serving.bench.config import BenchConfig

    tree = overlay(read_toml(config) if config else {}, given)
    return build(BenchConfig, tree, str(config or "flags"))


def _run(settings: BenchConfig, keys: list[str], out: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from silva.serving.bench import report
    from silva.serving.bench.measure import summarise
    from silva.serving.bench.run import run_until_interrupted

    if out is not None:
        report.refuse_existing(out)
    with _watched() as show:
        found = run_until_interrupted(settings, keys, show)
    summary = summarise(found)
    if out is not None and found.outcomes:
        report.write_report(found, summary, out)
    if as_json:
        typer.echo(report.as_json(found, summary), nl=False)
    elif found.outcomes:
        Console().print(report.table(found, summary), soft_wrap=True, highlight=False)
    if out is not None and found.outcomes:
        typer.echo(f"report      {out}", err=as_json)
    if found.interrupted:
        typer.echo("silva: interrupted", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)


def _implied(rate: float | None, concurrency: int | None, trace: Path | None) -> str | None:
    """The kind of arrivals where none is named."""
    if concurrency is not None:
        return "closed"
    return "trace" if trace is not None and rate is None else None


def _refuse_idle(given: dict[str, Any], arrival: str) -> None:
    """ConfigError for an option that arrivals of this kind do not look at."""
    for name, kinds in NEEDS.items():
        if given[name] is not None and arrival not in kinds:
            raise ConfigError(
                f"--{name} has no effect on arrivals of kind {arrival!r}",
                remedy=f"leave it out, or choose --arrival {' or '.join(kinds)}",
            )


def _keys(given: list[str], file: Path | None) -> list[str]:
    """Keys of flags and file. ConfigError where one cannot be sent."""
    lines: list[str] = []
    if file is not None:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("cannot be read", where=file, remedy="check --keys-file") from error
    keys = [key.strip() for key in (*given, *lines) if key.strip()]
    for number, key in enumerate(keys, 1):
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"key {number} has characters that no header may have", remedy="correct it"
            )
    return keys


@contextmanager
def _watched() -> Iterator[Callable[[Progress], None]]:
    """A bar for the load on stderr; before it a spinner of which nothing stays, so that what goes
    wrong there is one line.
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    status = console.status("asking the server")
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[failed]}"),
        console=console,
    )
    task = bar.add_task("requests", total=None, failed="")

    def show(step: Progress) -> None:
        if step.stage != "load":
            status.update(f"{step.stage} {step.done}/{step.total}" if step.total else step.stage)
            return
        if not bar.live.is_started:
            status.stop()
            bar.start()
        failed = f"{step.failed} failed" if step.failed else ""
        bar.update(task, completed=step.done, total=step.total, failed=failed)

    if console.is_terminal:
        status.start()
    try:
        yield show
    finally:
        status.stop()
        if bar.live.is_started:
            bar.stop()
