"""From settings to a serving process: model, backend, API, until a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from silva.config import setting
from silva.models.cache_folder import cache_folder
from silva.models.llama_config import LlamaConfig, read_config
from silva.models.text import load_text
from silva.serving.api.app import create_app
from silva.serving.api.keys import ApiKey, KeyRing, parse_key, read_keys
from silva.serving.api.serve import listen, serve
from silva.serving.api.settings import ApiSettings
from silva.serving.backend import ModelCard
from silva.serving.colocated import Colocated
from silva.serving.config import ServeConfig
from silva.serving.engine.kv import KVShape
from silva.serving.front import Front


@dataclass(frozen=True)
class HttpConfig:
    """Where the API listens and whom it lets in."""

    host: str = setting("127.0.0.1", help="address to listen on")
    port: int = setting(8000, help="port to listen on; 0: any", low=0, high=65535)
    keys: str = setting("", help="TOML file of API keys; empty: everybody may ask")
    api_keys: tuple[str, ...] = setting((), help="API keys as NAME=SECRET", empty=True)
    admin_keys: tuple[str, ...] = setting(
        (), help="admin keys as NAME=SECRET; without any, callers on this machine", empty=True
    )
    limits: ApiSettings = field(default_factory=ApiSettings)


@dataclass(frozen=True)
class LaunchConfig:
    """`silva serve`, whole."""

    model: str = setting("smollm2", help="a model's name, or the path of its directory or GGUF")
    name: str = setting("", help="what the API calls it; empty: the model's name")
    serve: ServeConfig = field(default_factory=ServeConfig)
    http: HttpConfig = field(default_factory=HttpConfig)


def launch(
    config: LaunchConfig, model: Path, created: int, announce: Callable[[str], None] = print
) -> None:
    """Serve the model of a directory until SIGTERM or SIGINT.

    `created`: seconds since 1970, what /v1/models says. `announce` gets the address once the server
    is ready. Raises a SilvaError before anything is started when a setting, the model or the port
    is not usable.
    """
    http = config.http
    keys = [*(read_keys(http.keys) if http.keys else ()), *_parsed(http.api_keys, "--api-key")]
    admin_keys = _parsed(http.admin_keys, "--admin-key")
    ring, admins = KeyRing(keys), KeyRing(admin_keys)
    folder = config.serve.kv.cache_folder or str(cache_folder() / "kv" / str(http.port))
    serving = replace(config.serve, kv=replace(config.serve.kv, cache_folder=folder))
    # the text has a process of its own, so that the port comes first
    with listen(http.host, http.port) as sock, closing(load_text(model)) as text:
        context = context_tokens(serving, read_config(model))
        cards = [ModelCard(config.name or Path(config.model).stem, created, context)]
        backend = (Colocated if serving.colocated else Front)(serving, model, cards)
        app = create_app(backend, text, http.limits, keys=ring, admin_keys=admins)

        async def run() -> None:
            await backend.open()
            await serve(app, backend, sock, grace_s=serving.grace_s, announce=announce)

        asyncio.run(run())


def context_tokens(config: ServeConfig, model: LlamaConfig) -> int:
    """The longest prompt and answer together: what the model was made for and a peer can hold."""
    dtype = getattr(torch, config.dtype)
    size = config.kv.block_tokens
    sizes = (model.layers, model.kv_heads, model.head_size, model.head_size)
    blocks = KVShape(*sizes, size, dtype).blocks_in(config.kv.peer_bytes)
    return min(model.context, blocks * size)


def _parsed(texts: Sequence[str], where: str) -> list[ApiKey]:
    return [parse_key(text, where) for text in texts]
