"""`silva serve`: a model behind an OpenAI-compatible API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from silva.federation.sent import TextProber, TextTuner

Model = Annotated[
    str | None,
    typer.Argument(help="smollm2, silva-vit-tiny, or the path of a directory or a GGUF file."),
]
Forest = Annotated[
    Path | None, typer.Option(help="Folder of a forest: its clients are models too, as MODEL@c-17.")
]
UnknownClient = Annotated[
    str | None, typer.Option(help="A client that the forest does not know: error, or root.")
]
Prefill = Annotated[int | None, typer.Option(help="Prefill peers.")]
Decode = Annotated[int | None, typer.Option(help="Decode peers.")]
Ep = Annotated[
    int | None,
    typer.Option(help="Make so many decode peers of the one, which share the model's experts."),
]
PrefillEp = Annotated[
    int | None,
    typer.Option(
        help="Make so many prefill peers of the one, which share experts and each prompt."
    ),
]
Wire = Annotated[str | None, typer.Option(help="How tokens travel to experts: exact or int8.")]
Cache = Annotated[int | None, typer.Option(help="Cache peers; 0 for none.")]
CacheRam = Annotated[str | None, typer.Option(help="RAM tier of one cache peer, as 1GiB.")]
CacheDisk = Annotated[str | None, typer.Option(help="Its disk tier, as 4GiB; 0 for none.")]
Kv = Annotated[str | None, typer.Option(help="Blocks of one computing peer, as 1GiB.")]
TpotTarget = Annotated[
    str | None, typer.Option(help="Time per output token that batches must hold, as 50ms.")
]
AutoRoles = Annotated[
    bool, typer.Option(help="Move peers between prefill and decode as the load shifts.")
]
Mtp = Annotated[
    bool | None,
    typer.Option("--mtp/--no-mtp", help="Draft tokens, where the model brings a module for them."),
]
Colocated = Annotated[bool, typer.Option(help="One process with both roles, no peers.")]
Transfer = Annotated[str | None, typer.Option(help="How blocks move: shm or tcp.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or bfloat16.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 for any.")]
Name = Annotated[str | None, typer.Option(help="What the API calls the model.")]
ApiKeys = Annotated[list[str] | None, typer.Option("--api-key", help="NAME=SECRET; repeatable.")]
Keys = Annotated[Path | None, typer.Option(help="TOML file of API keys.")]
AdminKeys = Annotated[
    list[str] | None, typer.Option("--admin-key", help="NAME=SECRET; repeatable.")
]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings; flags override it.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, as serve.grace_s=5; repeatable.")
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Log what the peers do.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("serve", help=_serve.__doc__)(_serve)


def _serve(
    model: Model = None,
    forest: Forest = None,
    unknown_client: UnknownClient = None,
    prefill: Prefill = None,
    decode: Decode = None,
    ep: Ep = None,
    prefill_ep: PrefillEp = None,
    wire: Wire = None,
    cache: Cache = None,
    cache_ram: CacheRam = None,
    cache_disk: CacheDisk = None,
    kv: Kv = None,
    tpot_target: TpotTarget = None,
    auto_roles: AutoRoles = False,
    mtp: Mtp = None,
    colocated: Colocated = False,
    transfer: Transfer = None,
    dtype: Dtype = None,
    host: Host = None,
    port: Port = None,
    name: Name = None,
    api_key: ApiKeys = None,
    keys: Keys = None,
    admin_key: AdminKeys = None,
    config: Config = None,
    sets: Sets = None,
    verbose: Verbose = False,
) -> None:
    """Serve a model: OpenAI's API, prefill, decode and cache in processes of their own."""
    from silva.amounts import parse_bytes, parse_seconds

    flags = {
        "model": model,
        "name": name,
        "serve.forest": forest and str(forest),
        "serve.unknown_client": unknown_client,
        "serve.pools.prefill": prefill,
        "serve.pools.decode": decode,
        "serve.experts.ranks": ep,
        "serve.experts.prefill_ranks": prefill_ep,
        "serve.experts.wire": wire,
        "serve.pools.cache": cache,
        "serve.kv.cache_ram_bytes": cache_ram and parse_bytes(cache_ram, "--cache-ram"),
        "serve.kv.cache_disk_bytes": cache_disk and parse_bytes(cache_disk, "--cache-disk"),
        "serve.kv.peer_bytes": kv and parse_bytes(kv, "--kv"),
        "serve.step.tpot_target_s": tpot_target and parse_seconds(tpot_target, "--tpot-target"),
        "serve.roles.auto": auto_roles or None,
        "serve.mtp": mtp,
        "serve.colocated": colocated or None,
        "serve.transfer": transfer,
        "serve.dtype": dtype,
        "http.host": host,
        "http.port": port,
        "http.keys": keys and str(keys),
        "http.api_keys": api_key,
        "http.admin_keys": admin_key,
    }
    _launch(flags, config, sets or [], verbose)


def _launch(flags: dict[str, Any], config: Path | None, sets: list[str], verbose: bool) -> None:
    import logging

    from silva.cli.assignment import assignment
    from silva.config import build, overlay, read_toml
    from silva.models.kinds import is_image_model
    from silva.serving.api.ids import RequestIdFilter
    from silva.serving.launch import LaunchConfig, launch

    tree = overlay(read_toml(config) if config else {}, flags | dict(map(assignment, sets)))
    settings = build(LaunchConfig, tree, config or "silva serve")
    level = logging.INFO if verbose else logging.WARNING
    # on the handler: a logger's filter does not see what other loggers hand on
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    shape = "%(asctime)s %(levelname).1s front [%(request_id)s %(trace_id)s] %(message)s"
    logging.basicConfig(level=level, format=shape, handlers=[handler])
    if is_image_model(settings.model):
        from silva.federation.sent import ImageProber, ImageTuner
        from silva.serving.images.launch import launch_images

        launch_images(settings, ImageProber, ImageTuner(settings.model), _announce)
        return
    launch(settings, _model(settings.model, settings.serve.dtype), _announce, _joining)


def _joining(folder: Path) -> tuple[TextProber, TextTuner]:
    """What trains for clients of a forest who send their texts."""
    from silva.federation.sent import TextProber, TextTuner

    return TextProber(folder), TextTuner(folder)


@contextmanager
def _model(name: str, dtype: str) -> Iterator[Path]:
    """The model's directory, fetched and converted first, and not given up while it is served."""
    from silva.cli.model_progress import model_progress
    from silva.cli.slow_types import warn_of_bfloat16
    from silva.models.library import Library

    if dtype == "bfloat16":
        warn_of_bfloat16("serve.dtype", "cpu")
    with model_progress() as progress:
        library = Library(progress=progress)
        folder = library.resolve(name, dtype)
    # peers that start again later need the files too
    with library.cache.hold(folder):
        yield folder


def _announce(url: str) -> None:
    typer.echo(f"silva: serving at {url}/v1")
