"""`/v1/classify`: the classes of pictures, by the model of one client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from silva.errors import DataError
from silva.serving.api.auth import caller
from silva.serving.api.body import kind_of, read_body
from silva.serving.api.disconnect import while_connected
from silva.serving.api.errors import bad_request
from silva.serving.api.files import decoded
from silva.serving.api.form import FORM, read_form
from silva.serving.api.gate import Ticket
from silva.serving.api.openapi import takes
from silva.serving.api.schemas.classify import MAX_IMAGES, ClassifyBody, ClassifyForm
from silva.serving.api.server import Server
from silva.serving.api.settings import ApiSettings
from silva.serving.api.stream import json_response
from silva.serving.backend import ModelCard
from silva.serving.images.classifier import Chances
from silva.serving.images.service import ImageService


@dataclass(frozen=True)
class ImageServer(Server):
    """A front whose models say what is on a picture."""

    backend: ImageService
    labels: tuple[str, ...]
    """Of the forest's classes, in the order of its heads."""
    base_labels: tuple[str, ...]
    """Of the base model's own head; none where it has no head."""


def classifying(server: ImageServer) -> APIRouter:
    """`/v1/classify`."""
    router = APIRouter(tags=["answers"])

    @router.post("/v1/classify", **takes(ClassifyBody, ClassifyForm))
    async def classify(request: Request) -> Response:
        """The most probable classes of each image, best first."""
        key = caller(request, server.keys)
        with server.gate.enter(key.name) as ticket:
            body = await _body(request, server.settings, ticket)
            card = server.card(body.model, key)
            images = _files(body)
            try:
                asked = server.backend.classify(card.path, images)
                found = await while_connected(request.receive, asked)
            except DataError as error:
                raise bad_request(str(error), param=str(error.where)) from error
        labels = server.labels if card.path else server.base_labels
        return json_response(_shown(card, found, labels, body.top_k))

    return router


async def _body(
    request: Request, settings: ApiSettings, ticket: Ticket
) -> ClassifyBody | ClassifyForm:
    if kind_of(request) != FORM:
        return await read_body(request, ClassifyBody, settings, ticket)
    return await read_form(request, ClassifyForm, ("images",), MAX_IMAGES, settings, ticket)


def _files(body: ClassifyBody | ClassifyForm) -> list[bytes]:
    if isinstance(body, ClassifyForm):
        return body.images
    return [decoded(text, f"images.{n}") for n, text in enumerate(body.images)]


def _shown(
    card: ModelCard, found: Sequence[Chances], labels: tuple[str, ...], top: int
) -> dict[str, Any]:
    data = []
    for n, chances in enumerate(found):
        best = np.argsort(-chances, kind="stable")[:top].tolist()
        classes = [{"label": labels[c], "probability": float(chances[c])} for c in best]
        data.append({"index": n, "classes": classes})
    return {"object": "list", "model": card.id, "path": list(card.path), "data": data}
