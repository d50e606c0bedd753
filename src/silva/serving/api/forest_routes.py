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


def forest(server: Server, live: LiveForest) -> APIRouter:
    """Every verb answers with the version that is answered for after it."""
    router = APIRouter(prefix="/admin/v1/forest", tags=["forest"])

    @router.get("")
    async def shown(request: Request) -> Response:
        """The version that is answered for."""
        check_admin(request, server.admin_keys)
        return json_response(live.told())

    @router.get("/tree")
    async def tree(request: Request) -> Response:
        """The version that is answered for, with its clusters and clients and their figures."""
        check_admin(request, server.admin_keys)
        return json_response(await asyncio.to_thread(live.outline))

    @router.post("", **takes(VersionBody))
    async def changed(request: Request) -> Response:
        """Answer for another version from the next request on; those under way keep theirs."""
        check_verb(request, server)
        body = await read_body(request, VersionBody, server.settings)
        number = body.version
        await _do(server, live, live.reload if number is None else lambda: live.show(number))
        return json_response(live.told())

    @router.post("/clients")
    async def joined(request: Request, client: str = "") -> Response:
        """A new client, by the probe that `silva forest probe` made where its data are."""
        check_admin(request, server.admin_keys)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != PROBE:
            raise ApiError(415, f"send the probe as {PROBE}", code="not_a_probe")
        probe = await read_bytes(request, server.settings)
        found = await _do(server, live, lambda: live.join(client, probe))
        name = f"{live.cards[0].id}@{found.client}"
        about = {"model": name, "cluster": found.cluster, "similarities": found.similarities}
        return json_response({**live.told(), **about})

    @router.delete("/clients/{client}")
    async def removed(request: Request, client: str) -> Response:
        """Erase a client: its adapters, and every version that names it."""
        check_admin(request, server.admin_keys)
        await _do(server, live, lambda: live.remove(client))
        return json_response(live.told())

    return router


async def _do(server: Server, live: LiveForest, change: Callable[[], Result]) -> Result:
    """Change the forest beside the event loop; names that come and go are offered at once."""
    try:
        result = await asyncio.to_thread(change)
    except UnknownClientError as error:
        raise ApiError(404, str(error), code="unknown_client") from error
    except ForestError as error:
        raise ApiError(409, str(error), code="forest_refused") from error
    server.backend.offer(live.cards)
    return result
