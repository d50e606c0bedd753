"""The endpoints that answer, and those about models and texts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from fastapi import APIRouter, Request, Response

from silva.serving.api.auth import caller
from silva.serving.api.body import read_body
from silva.serving.api.chat import chat
from silva.serving.api.completions import completion
from silva.serving.api.disconnect import while_connected
from silva.serving.api.envelope import ID_IN_SCOPE
from silva.serving.api.errors import unknown_model
from silva.serving.api.job import Caller
from silva.serving.api.listing import Listing, listed, shown
from silva.serving.api.openapi import takes
from silva.serving.api.schemas.base import Asking
from silva.serving.api.schemas.chat import ChatBody
from silva.serving.api.schemas.completions import CompletionBody
from silva.serving.api.server import Server, TextServer
from silva.serving.api.stream import json_response, open_stream
from silva.serving.api.timings import HEADER

Body = TypeVar("Body", bound=Asking)


class Reply(Protocol):
    """The answers to one request in the shape of its endpoint."""

    async def whole(self) -> dict[str, Any]: ...

    def events(self) -> AsyncGenerator[bytes, None]: ...


def answering(server: TextServer) -> APIRouter:
    """`/v1/completions` and `/v1/chat/completions`."""
    router = APIRouter(tags=["answers"])

    @router.post("/v1/completions", **takes(CompletionBody))
    async def completions(request: Request) -> Response:
        """Continue a text or token ids."""
        return await _answer(server, request, CompletionBody, completion)

    @router.post("/v1/chat/completions", **takes(ChatBody))
    async def chat_completions(request: Request) -> Response:
        """Continue a conversation."""
        return await _answer(server, request, ChatBody, chat)

    return router


async def _answer(
    server: TextServer,
    request: Request,
    schema: type[Body],
    prepare: Callable[[TextServer, Caller, Body], Awaitable[Reply]],
) -> Response:
    """Let in, read, prepare and answer; whatever happens, the place in the gate is given back."""
    arrival_s = server.clock()
    key = caller(request, server.keys)
    with contextlib.ExitStack() as resources:
        ticket = resources.enter_context(server.gate.enter(key.name))
        body = await read_body(request, schema, server.settings, ticket)
        timed = request.headers.get(HEADER, "0") != "0"
        who = Caller(key, request.scope[ID_IN_SCOPE], arrival_s, ticket, timed)
        reply = await prepare(server, who, body)
        if not body.stream:
            return json_response(await while_connected(request.receive, reply.whole()))
        timeout_s = server.settings.send_timeout_s
        return await open_stream(request.receive, reply.events(), timeout_s, resources)


def models(server: Server) -> APIRouter:
    """`/v1/models`: the base first, each adapter with its parent and root."""
    router = APIRouter(tags=["models"])
    every = Listing()

    @router.get("/v1/models")
    async def several(request: Request) -> Response:
        """All models that the key opens."""
        key, cards = caller(request, server.keys), server.backend.models()
        if not key.model:
            return every.whole(cards)
        return listed([card for card in cards if card.id == key.model])

    @router.get("/v1/models/{name:path}")
    async def one(request: Request, name: str) -> Response:
        """One model."""
        key = caller(request, server.keys)
        if len(name) > 256:
            raise unknown_model(name[:64])
        return json_response(shown(server.card(name, key)))

    return router
