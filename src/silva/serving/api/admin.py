"""`/admin/v1`: what the server does, and the verbs that change it; and what machines ask of it."""

from __future__ import annotations

import dataclasses
import os
import signal

from fastapi import APIRouter, Request, Response

from silva.serving.api.auth import check_admin
from silva.serving.api.body import kind_of, read_body
from silva.serving.api.errors import ApiError
from silva.serving.api.metrics import CONTENT_TYPE
from silva.serving.api.openapi import takes
from silva.serving.api.schemas.admin import DrainBody, ScaleBody, SwitchBody
from silva.serving.api.server import Server
from silva.serving.api.stream import json_response


def admin(server: Server) -> APIRouter:
    """Every verb answers with the status after it."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"])

    def status() -> Response:
        return json_response(dataclasses.asdict(server.backend.status()))

    @router.get("/status")
    async def shown(request: Request) -> Response:
        """Peers, pools, cache and counters."""
        check_admin(request, server.admin_keys)
        return status()

    @router.post("/scale", **takes(ScaleBody))
    async def scale(request: Request) -> Response:
        """Set how many peers each named role has."""
        check_verb(request, server)
        body = await read_body(request, ScaleBody, server.settings)
        await server.backend.scale(body.roles)
        return status()

    @router.post("/drain", **takes(DrainBody))
    async def drain(request: Request) -> Response:
        """Let a peer finish what it runs and stop."""
        check_verb(request, server)
        body = await read_body(request, DrainBody, server.settings)
        await server.backend.drain(body.peer)
        return status()

    @router.post("/switch", **takes(SwitchBody))
    async def switch(request: Request) -> Response:
        """Let a peer go on in another role."""
        check_verb(request, server)
        body = await read_body(request, SwitchBody, server.settings)
        await server.backend.switch(body.peer, body.role)
        return status()

    @router.post("/stop")
    async def stop(request: Request) -> Response:
        """Let what runs finish and end the server: the same as SIGTERM to its process."""
        check_verb(request, server)
        os.kill(os.getpid(), signal.SIGTERM)
        return status()

    return router


def check_verb(request: Request, server: Server) -> None:
    """Admin, and JSON: a browser sends that to another site only after asking it, in vain."""
    check_admin(request, server.admin_keys)
    if kind_of(request) != "application/json":
        raise ApiError(415, "send application/json", code="not_json")


def probes(server: Server) -> APIRouter:
    """`/health`, `/ready` and `/metrics`, which need no key."""
    router = APIRouter(tags=["machines"])

    @router.get("/health")
    async def health() -> Response:
        """200 while the front runs at all."""
        return json_response({"status": "ok"})

    @router.get("/ready")
    async def ready() -> Response:
        """200 while a request would be served, else 503."""
        serves = server.backend.ready() and not server.gate.closed
        return json_response({"ready": serves}, 200 if serves else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(server.metrics.exposition(), media_type=CONTENT_TYPE)

    return router
