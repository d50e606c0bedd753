"""The API without a socket: httpx over ASGI, one event loop for many requests."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import httpx
from fastapi import FastAPI


class Api:
    """Synchronous calls to an app. A defect becomes status 500, as on a socket."""

    def __init__(self, app: FastAPI, client: tuple[str, int] = ("127.0.0.1", 4321)) -> None:
        self.app = app
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=client)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.close()

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        if hasattr(more.get("content"), "__next__"):
            more["content"] = _asynchronous(more["content"])
        return self._runner.run(self._client.request(method, path, **more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)


async def _asynchronous(parts: Any) -> Any:
    for part in parts:
        yield part
