"""`silva profile`: this machine as a spec file, measured."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silva.cli.writable import check_writable

if TYPE_CHECKING:
    from collections.abc import Callable

    from silva.reality.profile import Target

EXIT_TERMINATED = 128 + signal.SIGTERM

ModelName = Annotated[
    str | None, typer.Argument(help="smollm2, or the path of a directory or a GGUF file.")
]
Out = Annotated[Path, typer.Option(help="The spec file to write.")]
PointTime = Annotated[
    str | None, typer.Option(help="Time for each kind of step, twice; 1.5s by default.")
]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings of silva serve.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting of silva serve, as serve.threads=2; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Adds `silva profile`."""
    app.command("profile")(profile)


def profile(
    model: ModelName = None,
    out: Out = Path("here.toml"),
    point_time: PointTime = None,
    config: Config = None,
    sets: Sets = None,
) -> None:
    """Measure this machine and a model's steps on it, and write both as a spec file.

    silva simulate, silva plan and silva validate here read it. Takes some five minutes; whatever
    else runs meanwhile is measured along.
    """
    from silva.config import build, overlay
    from silva.errors import ConfigError
    from silva.reality.profile import ProfileConfig, write_profile

    if out.suffix != ".toml":
        raise ConfigError(f"{str(out)!r:.60} is no .toml file", where="--out")
    check_writable(out)
    with served(model, config, sets or []) as (name, target), shown() as watch:
        tree = overlay({}, {"model": name, "point_s": point_seconds(point_time)})
        write_profile(build(ProfileConfig, tree, "silva profile"), target, out, watch)
    print(f"silva: written to {out}")


def point_seconds(text: str | None) -> float | None:
    """ "2s" of --point-time."""
    from silva.amounts import parse_seconds

    return None if text is None else parse_seconds(text, "--point-time")


@contextmanager
def served(
    model: str | None, config: Path | None, sets: Sequence[str]
) -> Iterator[tuple[str, Target]]:
    """The model that `silva serve` would serve with these settings, and how to start that."""
    from silva.cli.assignment import assignment
    from silva.cli.model_progress import model_progress
    from silva.config import build, overlay, read_toml
    from silva.errors import ConfigError
    from silva.models.library import Library
    from silva.reality.profile import Target, serve_arguments
    from silva.serving.launch import LaunchConfig

    flags: dict[str, Any] = {"model": model, **dict(map(assignment, sets))}
    tree = overlay(read_toml(config) if config else {}, flags)
    settings = build(LaunchConfig, tree, config or "flags")
    if settings.http.keys or settings.http.api_keys or settings.http.admin_keys:
        raise ConfigError("a server with keys is not measured", remedy="leave the keys out")
    with model_progress() as progress:
        library = Library(progress=progress)
        path = library.resolve(settings.model, settings.serve.dtype)
    # So that what was started is ended and folders are removed then, too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        with library.cache.hold(path):
            arguments = serve_arguments(settings.model, config, sets)
            yield settings.model, Target(path, arguments, settings.serve)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def shown() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being measured; nothing of it stays."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        yield lambda what: status.update(what)
