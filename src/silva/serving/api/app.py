"""The HTTP side of serving as one ASGI application."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from starlette.types import Lifespan

from silva import __version__
from silva.serving.api import errors, openapi
from silva.serving.api.admin import admin, probes
from silva.serving.api.envelope import Envelope
from silva.serving.api.gate import Gate
from silva.serving.api.grammar import Grammars
from silva.serving.api.keys import KeyRing
from silva.serving.api.metrics import Metrics
from silva.serving.api.routes import answering, models
from silva.serving.api.server import Server, TextServer
from silva.serving.api.settings import ApiSettings
from silva.serving.api.text import TextModel, TextThreads
from silva.serving.api.text_routes import texts
from silva.serving.backend import Backend
from silva.serving.console.about import Answers
from silva.serving.console.routes import console

if TYPE_CHECKING:
    from silva.data.sent_texts import SentTexts
    from silva.serving.live_forest import LiveForest
    from silva.serving.newcomers import Newcomers


def create_app(
    backend: Backend,
    text: TextModel,
    settings: ApiSettings | None = None,
    *,
    keys: KeyRing | None = None,
    admin_keys: KeyRing | None = None,
    forest: LiveForest | None = None,
    newcomers: Newcomers[SentTexts] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The API over `backend`, whose models all speak `text`.

    keys            who may ask; without any, everybody
    admin_keys      who may use `/admin/v1`; without any, callers on this machine
    forest          whose clients are models too, if any
    newcomers       who takes clients that join `forest` by their texts; closed with the app
    clock           the one that the backend's phases are told on

    `app.state.server` is the TextServer; its gate is closed to admit nothing more. The caller opens and
    closes the backend: see `silva.serving.api.serve`.
    """
    settings = settings or ApiSettings()
    gate, threads = Gate(settings, clock), TextThreads()
    server = TextServer(
        backend=backend,
        text=text,
        settings=settings,
        keys=keys or KeyRing(),
        admin_keys=admin_keys or KeyRing(),
        gate=gate,
        metrics=Metrics(backend, gate),
        grammars=Grammars(settings, threads),
        threads=threads,
        forest=forest,
        newcomers=newcomers,
        clock=clock,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if newcomers is not None:
            await newcomers.close()
        threads.close()

    page = console(server, Answers("text", chat=bool(text.chat_template)))
    return assembled(server, [answering(server), texts(server), page], lifespan)


def assembled(
    server: Server, own: Sequence[APIRouter], lifespan: Lifespan[FastAPI] | None = None
) -> FastAPI:
    """The app of a server: what is its own, and what all servers have."""
    # The usual pages of documentation load their scripts from elsewhere.
    app = FastAPI(
        title="silva", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.server = server
    for router in (*own, models(server), admin(server), probes(server)):
        app.include_router(router)
    if server.forest is not None:
        from silva.serving.api.forest_routes import forest as forest_routes  # imports torch

        app.include_router(forest_routes(server, server.forest))
    errors.install(app)
    openapi.install(app)
    app.add_middleware(Envelope, count=server.metrics.request)
    return app
