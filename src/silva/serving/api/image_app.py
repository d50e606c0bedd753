"""The HTTP side of serving image classifiers as one ASGI application."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI

from silva.data.labelled import LabelledFiles
from silva.serving.api.app import assembled
from silva.serving.api.gate import Gate
from silva.serving.api.image_routes import ImageServer, classifying
from silva.serving.api.keys import KeyRing
from silva.serving.api.metrics import Metrics
from silva.serving.api.settings import ApiSettings
from silva.serving.console.about import Answers
from silva.serving.console.routes import console
from silva.serving.images.service import ImageService
from silva.serving.live_forest import LiveForest
from silva.serving.newcomers import Newcomers


def create_image_app(
    service: ImageService,
    labels: tuple[str, ...],
    base_labels: tuple[str, ...],
    settings: ApiSettings | None = None,
    *,
    keys: KeyRing | None = None,
    admin_keys: KeyRing | None = None,
    forest: LiveForest | None = None,
    newcomers: Newcomers[LabelledFiles] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The API over `service`; see `silva.serving.api.app` for what is common.

    labels       of the forest's classes; base_labels: of the base model's own head
    newcomers    who takes clients that join `forest` by their examples; closed with the app
    """
    settings = settings or ApiSettings()
    gate = Gate(settings, clock)
    server = ImageServer(
        backend=service,
        settings=settings,
        keys=keys or KeyRing(),
        admin_keys=admin_keys or KeyRing(),
        gate=gate,
        metrics=Metrics(service, gate),
        forest=forest,
        newcomers=newcomers,
        clock=clock,
        labels=labels,
        base_labels=base_labels,
    )
    page = console(server, Answers("image", labels=labels))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if newcomers is not None:
            await newcomers.close()

    return assembled(server, [classifying(server), page], lifespan)
