"""From settings to a serving process: model, backend, API, until a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from silva.config import setting
from silva.errors import ConfigError, SilvaError
from silva.kernels.native import REMEDY, native_loaded
from silva.models.text import LanguageText, load_text
from silva.serving.api.app import create_app
from silva.serving.api.keys import ApiKey, KeyRing, parse_key, read_keys
from silva.serving.api.serve import listen, serve
from silva.serving.api.settings import ApiSettings
from silva.serving.backend import ModelCard
from silva.serving.config import ServeConfig
from silva.serving.kv_folder import with_folder
from silva.serving.memory import check_start
from silva.serving.process_name import show_as
from silva.serving.quotas import with_quotas
from silva.serving.spread import check_directory, check_model, check_settings

if TYPE_CHECKING:
    from silva.adapters.forest import Forest
    from silva.data.sent_texts import SentTexts
    from silva.models.language import LanguageConfig
    from silva.serving.colocated import Colocated
    from silva.serving.front import Front
    from silva.serving.live_forest import LiveForest
    from silva.serving.newcomers import LeafTuner, Newcomers, Prober

    Joining = Callable[[Path], tuple[Prober[SentTexts], LeafTuner[SentTexts]]]
    """What probes and tunes on the model of a directory."""


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
    config: LaunchConfig,
    model: AbstractContextManager[Path],
    announce: Callable[[str], None] = print,
    joining: Joining | None = None,
) -> None:
    """Serve a model until SIGTERM or SIGINT.

    `model` gives the directory and keeps it there; it is entered once the port is held, since it
    may load and convert for minutes. `announce` gets the address once the server is ready. Without
    `joining` clients join by probes alone. Raises a SilvaError before a peer is started when a setting,
    the port or the model is not usable, and once all of them have ended when one could not start.
    """
    http, grace_s = config.http, config.serve.grace_s
    if config.serve.colocated and config.serve.roles.auto:
        what = "one engine with both roles has no peers to move"
        raise ConfigError(what, where="serve.roles.auto", remedy="leave it or --colocated out")
    if config.serve.kernels == "native" and not native_loaded():
        raise ConfigError("the native module was not built", where="serve.kernels", remedy=REMEDY)
    check_settings(config.serve)
    check_directory(config.serve, config.model)
    check_start(config.serve)
    forest = _forest(config.serve)
    keys = api_keys(http)
    ring, admins = KeyRing(keys), admin_ring(http)
    kept = with_quotas(config.serve.kv, keys)
    with (
        listen(http.host, http.port) as sock,
        model as folder,
        closing(_load_text(config, folder)) as text,
        with_folder(kept, http.port) as kv,
    ):
        failures: list[SilvaError] = []
        over = asyncio.Event()

        def fail(error: SilvaError) -> None:
            failures.append(error)
            over.set()

        live = None if forest is None else live_forest(config, folder, forest)
        serving = replace(config.serve, kv=kv)
        backend = make_backend(replace(config, serve=serving), folder, fail, live)
        taking = _newcomers(live, backend, joining, folder)
        app = create_app(
            backend, text, http.limits, keys=ring, admin_keys=admins, forest=live, newcomers=taking
        )

        async def run() -> None:
            try:
                await backend.open()
            except BaseException:
                await backend.close(0.0)
                raise
            show_as("front")
            await serve(app, backend, sock, grace_s=grace_s, announce=announce, stop=over)

        asyncio.run(run())
        if failures:
            raise failures[0]


def api_keys(http: HttpConfig) -> list[ApiKey]:
    """The keys of the file and of the flags. Raises ConfigError."""
    return [*(read_keys(http.keys) if http.keys else ()), *_parsed(http.api_keys, "--api-key")]


def admin_ring(http: HttpConfig) -> KeyRing:
    """Who may administer. Raises ConfigError."""
    return KeyRing(_parsed(http.admin_keys, "--admin-key"))


def _forest(config: ServeConfig) -> Forest | None:
    if not config.forest:
        return None
    from silva.serving.forest_cards import served_forest  # imports torch

    return served_forest(Path(config.forest).expanduser())


def _load_text(config: LaunchConfig, model: Path) -> LanguageText:
    """The text, which has a process of its own; the peers' imports go on beside it from here on."""
    if not config.serve.colocated:
        from silva.serving.forked import preload

        preload()
    return load_text(model)


def _newcomers(
    live: LiveForest | None, backend: Front | Colocated, joining: Joining | None, model: Path
) -> Newcomers[SentTexts] | None:
    if live is None or joining is None:
        return None
    return newcomers(live, backend, *joining(model))


def newcomers(
    live: LiveForest,
    backend: Front | Colocated,
    prober: Prober[SentTexts],
    tuner: LeafTuner[SentTexts],
) -> Newcomers[SentTexts]:
    """Who takes clients by their texts: all that trains does so in processes of its own."""
    from silva.serving.newcomers import Newcomers
    from silva.serving.training_work import ProberBeside
    from silva.serving.tunings import Tunings

    beside = ProberBeside(prober)
    tunings = Tunings(live, tuner, backend.busy, backend.offer)
    return Newcomers(live, beside, tunings, end=beside.close)


def make_backend(
    config: LaunchConfig,
    model: Path,
    fail: Callable[[SilvaError], None],
    live: LiveForest | None = None,
) -> Front | Colocated:
    """What computes, to be opened; imports torch. `fail`: see Front. `live`: whose names it answers.

    Raises ModelError, and ConfigError or ServingError for a model whose experts cannot be spread as
    the settings say.
    """
    from silva.serving.colocated import Colocated
    from silva.serving.front import Front

    serving, cards = config.serve, [base_card(config, model)]
    if live is not None:
        cards, serving = [*live.cards], replace(serving, forest=str(live.folder.absolute()))
    if serving.colocated:
        return Colocated(serving, model, cards)
    return Front(serving, model, cards, fail)


def live_forest(config: LaunchConfig, model: Path, forest: Forest) -> LiveForest:
    """The forest as it is answered for on the model of a directory.

    Raises ModelError, and ForestError for one that was grown on another model.
    """
    from silva.models.checkpoint import open_checkpoint
    from silva.models.digests import model_digest
    from silva.serving.live_forest import LiveForest

    checkpoint = open_checkpoint(model)
    digest = model_digest(checkpoint.config.digest(), checkpoint.digest())
    return LiveForest(forest, base_card(config, model), digest)


def base_card(config: LaunchConfig, model: Path) -> ModelCard:
    """What the model of a directory is called. Raises as `make_backend` does."""
    from silva.models.checkpoint import open_checkpoint

    shape = open_checkpoint(model).config
    check_model(config.serve, shape)
    name, created = config.name or Path(config.model).stem, int(model.stat().st_mtime)
    return ModelCard(name, created, context_tokens(config.serve, shape))


def context_tokens(config: ServeConfig, model: LanguageConfig) -> int:
    """The longest prompt and answer together: what the model was made for and a peer can hold."""
    from silva.serving.make_engine import block_shape

    blocks = block_shape(config, model).blocks_in(config.kv.peer_bytes)
    return min(model.context, blocks * config.kv.block_tokens)


def _parsed(texts: Sequence[str], where: str) -> list[ApiKey]:
    return [parse_key(text, where) for text in texts]
