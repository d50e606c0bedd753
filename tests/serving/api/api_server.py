"""The API on a socket of this machine, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading

from api_fakes import FakeBackend
from fastapi import FastAPI

from silva.serving.api.serve import listen, serve, url_of


class Running:
    """Serves from construction until `stop`."""

    def __init__(self, app: FastAPI, backend: FakeBackend, grace_s: float = 5.0) -> None:
        self.app, self._backend, self._grace_s = app, backend, grace_s
        sock = listen("127.0.0.1", 0)
        self.url = url_of(sock)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(sock),))
        self._thread.start()
        assert self._ready.wait(20)

    async def _serve(self, sock: object) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(
            self.app,
            self._backend,
            sock,  # type: ignore[arg-type]
            grace_s=self._grace_s,
            announce=lambda _: self._ready.set(),
            stop=self._stop,
        )

    def ask_to_stop(self) -> None:
        """Returns at once; what runs goes on."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def stop(self) -> None:
        """Returns when the server has ended."""
        if self._thread.is_alive():
            self.ask_to_stop()
        self._thread.join(30)
        assert not self._thread.is_alive()
