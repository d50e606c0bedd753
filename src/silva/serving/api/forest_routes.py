"""`/admin/v1/forest`: its version, and clients that come and go while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from silva.errors import ForestError, UnknownClientError
from silva.serving.api.admin import check_verb
from silva.serving.api.auth import check_admin
from silva.serving.api.body import read_body, read_bytes
from silva.serving.api.errors import ApiError
from silva.serving.api.openapi import takes
from silva.serving.api.schemas.forest import VersionBody
from silva.serving.api.server import Server
from silva.serving.api.stream import json_response
from silva.serving.live_forest import LiveForest

Result = TypeVar("Result")
PROBE = "application/octet-stream"
MAX_NAME = 64


def forest(server: Server) -> APIRouter:
    """Every verb answers with the version that is answered for after it."""
    router = APIRouter(prefix="/admin/v1/forest", tags=["forest"])

    @router.get("")
    async def shown(request: Request) -> Response:
        """The version that is answered for."""
        check_admin(request, server.admin_keys)
        return json_response(_live(server).told())

    @router.post("", **takes(VersionBody))
    async def changed(request: Request) -> Response:
        """Answer for another version from the next request on; those under way keep theirs."""
        check_verb(request, server)
        live = _live(server)
        body = await read_body(request, VersionBody, server.settings)
        number = body.version
        await _do(server, live.reload if number is None else lambda: live.show(number))
        return json_response(live.told())

    @router.post("/clients")
    async def joined(request: Request, client: str = "") -> Response:
        """A new client, by the probe that `silva forest probe` made where its data are."""
        check_admin(request, server.admin_keys)
        live = _live(server)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != PROBE:
            raise ApiError(415, f"send the probe as {PROBE}", code="not_a_probe")
        probe = await read_bytes(request, server.settings)
        found = await _do(server, lambda: live.join(_name(client), probe))
        name = f"{live.cards[0].id}@{found.client}"
        about = {"model": name, "cluster": found.cluster, "similarities": found.similarities}
        return json_response({**live.told(), **about})

    @router.delete("/clients/{client}")
    async def removed(request: Request, client: str) -> Response:
        """Erase a client: its adapters, and every version that names it."""
        check_admin(request, server.admin_keys)
        live = _live(server)
        await _do(server, lambda: live.remove(_name(client)))
        return json_response(live.told())

    return router


def _live(server: Server) -> LiveForest:
    if server.forest is None:
        raise ApiError(404, "this server serves no forest", code="no_forest")
    return server.forest


def _name(client: str) -> str:
    if len(client) > MAX_NAME:
        raise ForestError(f"a client's name of {len(client)} characters is not allowed")
    return client


async def _do(server: Server, change: Callable[[], Result]) -> Result:
    """Change the forest beside the event loop; names that come and go are offered at once."""
    live = _live(server)
    try:
        result = await asyncio.to_thread(change)
    except UnknownClientError as error:
        raise ApiError(404, str(error), code="unknown_client") from error
    except ForestError as error:
        raise ApiError(409, str(error), code="forest_refused") from error
    server.backend.offer(live.cards)
    return result
