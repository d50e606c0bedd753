"""`/admin/v1/forest`: its version, and clients that come and go while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from silva.adapters.joining import Joined
from silva.errors import ForestError, UnknownClientError
from silva.serving.api.admin import check_verb
from silva.serving.api.auth import check_admin
from silva.serving.api.body import kind_of, read_body, read_bytes
from silva.serving.api.errors import ApiError
from silva.serving.api.examples import Kind, examples_in, kind_of_examples
from silva.serving.api.openapi import takes
from silva.serving.api.schemas.forest import VersionBody
from silva.serving.api.server import Server
from silva.serving.api.stream import json_response
from silva.serving.live_forest import LiveForest
from silva.serving.newcomers import Newcomers

Result = TypeVar("Result")
PROBE, JSON = "application/octet-stream", "application/json"


def forest(server: Server, live: LiveForest) -> APIRouter:
    """Every verb answers with the version that is answered for after it."""
    router = APIRouter(prefix="/admin/v1/forest", tags=["forest"])

    @router.get("")
    async def shown(request: Request) -> Response:
        """The version that is answered for, and the leaves that are tuned."""
        check_admin(request, server.admin_keys)
        return json_response(_told(server, live))

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
        return json_response(_told(server, live))

    _clients(router, server, live)
    return router


def _clients(router: APIRouter, server: Server, live: LiveForest) -> None:
    """Who comes, goes and gets a leaf."""
    sent = kind_of_examples(images=live.images)

    @router.post("/clients", **takes(sent.joining))
    async def joined(request: Request, client: str = "") -> Response:
        """A new client, by its examples or by the probe that `silva forest probe` made of them."""
        check_admin(request, server.admin_keys)
        kind = kind_of(request)
        if kind == JSON and server.newcomers is not None:
            found = await _by_examples(request, server, server.newcomers, sent, client)
        elif kind == PROBE:
            probe = await read_bytes(request, server.settings)
            found = await _do(server, live, lambda: live.join(client, probe))
        else:
            raise _not_taken(server)
        server.backend.offer(live.cards)
        name = f"{live.cards[0].id}@{found.client}"
        about = {"model": name, "cluster": found.cluster, "similarities": found.similarities}
        return json_response({**_told(server, live), **about})

    @router.delete("/clients/{client}")
    async def removed(request: Request, client: str) -> Response:
        """Erase a client: its adapters, every version that names it, a leaf that is tuned."""
        check_admin(request, server.admin_keys)
        if server.newcomers is not None:
            server.newcomers.tunings.forget(client)
        await _do(server, live, lambda: live.remove(client))
        return json_response(_told(server, live))

    @router.post("/clients/{client}/leaf", **takes(sent.tuned))
    async def tuned(request: Request, client: str) -> Response:
        """Tune a leaf in the background for a client that has none."""
        check_verb(request, server)
        if server.newcomers is None:
            raise _not_taken(server)
        with server.newcomers.asking(), _refusals():
            body = await read_body(request, sent.tuned, server.settings)
            await server.newcomers.tune(client, examples_in(body))
        return json_response(_told(server, live))


def _told(server: Server, live: LiveForest) -> dict[str, Any]:
    told = live.told()
    if server.newcomers is not None:
        told["examples"] = kind_of_examples(images=live.images).name
        told["leaves"] = server.newcomers.told()
    return told


async def _by_examples(
    request: Request, server: Server, newcomers: Newcomers[Any], sent: Kind, client: str
) -> Joined:
    with newcomers.asking(), _refusals():
        body = await read_body(request, sent.joining, server.settings)
        return await newcomers.join(client, examples_in(body), tune=body.tune)


def _not_taken(server: Server) -> ApiError:
    if server.newcomers is not None:
        return ApiError(415, f"send examples as {JSON}, or the probe as {PROBE}", code="not_taken")
    message = f"this server takes no examples; send the probe as {PROBE}"
    return ApiError(415, message, code="not_a_probe")


async def _do(server: Server, live: LiveForest, change: Callable[[], Result]) -> Result:
    """Change the forest beside the event loop; names that come and go are offered at once."""
    with _refusals():
        result = await asyncio.to_thread(change)
    server.backend.offer(live.cards)
    return result


@contextmanager
def _refusals() -> Iterator[None]:
    """What a forest refuses, as an answer."""
    try:
        yield
    except UnknownClientError as error:
        raise ApiError(404, str(error), code="unknown_client") from error
    except ForestError as error:
        raise ApiError(409, str(error), code="forest_refused") from error
