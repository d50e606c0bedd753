"""Runs the API on a socket until a signal, and ends it so that what runs is finished.

sock = listen(host, port)                       # before the model is loaded: a mistake is quick
app = create_app(backend, text, settings, keys=...)
asyncio.run(serve(app, backend, sock, grace_s=30.0, announce=print))
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from silva.errors import SilvaError
from silva.serving.api.server import Server
from silva.serving.backend import Serving

log = logging.getLogger("silva.api")

BACKLOG = 4096
_MOST_PORT = 65535
_KEEP_ALIVE_S = 75
_LAST_WORDS_S = 2
"""For responses to leave after the backend has closed."""
_POLL_S = 0.05


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free. Raises SilvaError."""
    where = f"{host}:{port}"
    if not 0 <= port <= _MOST_PORT:
        raise SilvaError("no such port", where=where, remedy=f"choose one up to {_MOST_PORT}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        remedy = "name an address of this machine, such as 127.0.0.1"
        raise SilvaError("no such address to listen on", where=where, remedy=remedy) from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot_listen(error, where) from error
    sock.setblocking(False)
    return sock


def _cannot_listen(error: OSError, where: str) -> SilvaError:
    if error.errno == errno.EADDRINUSE:
        remedy = "stop the server that has it, or choose another with --port"
        return SilvaError("the port is in use", where=where, remedy=remedy)
    if error.errno == errno.EACCES:
        return SilvaError("the port needs more rights", where=where, remedy="choose one over 1023")
    remedy = "choose another with --host or --port"
    return SilvaError(f"cannot listen there: {error}", where=where, remedy=remedy)


def url_of(sock: socket.socket) -> str:
    """What to type to reach the socket from this machine."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    app: FastAPI,
    backend: Serving,
    sock: socket.socket,
    *,
    grace_s: float,
    announce: Callable[[str], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`; closes the backend, in every case, and the socket.

    `announce` gets the address once, when the backend is ready. On the first signal nothing new is
    let in and what runs may finish within `grace_s`; a second signal ends the wait.
    """
    stop = stop or asyncio.Event()
    _allow_many_connections()
    uvicorn_server = _Uvicorn(_config(app), stop)
    running = asyncio.create_task(uvicorn_server.serve(sockets=[sock]))
    closed = False
    try:
        async with _announcing(backend, url_of(sock), announce):
            await _until(running, stop)
        if not running.done():
            log.info("stopping: nothing new is let in, what runs has %g s to finish", grace_s)
            closed = await _finish(app.state.server, backend, grace_s, uvicorn_server.hurry)
    finally:
        if not closed:
            await backend.close(0.0)
        uvicorn_server.should_exit = True
        await running


async def _finish(server: Server, backend: Serving, grace_s: float, hurry: asyncio.Event) -> bool:
    """Let what runs end, answers first and then the backend; False if a hurry came before."""
    server.gate.close()
    end_s = time.monotonic() + grace_s

    async def gently() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await server.gate.empty()
        await backend.close(max(0.0, end_s - time.monotonic()))

    closing = asyncio.create_task(gently())
    await _until(closing, hurry)
    if closing.done():
        closing.result()
        return True
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    return False


async def _until(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Returns when the task is done or the event has come."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        # Who calls decides what it may do: only the socket is believed.
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_WORDS_S,
    )


class _Uvicorn(uvicorn.Server):
    """Signals set events instead of ending the server: first the backend has to finish."""

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self.hurry = asyncio.Event()
        self._stop, self._loop = stop, asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called between any two instructions of the main thread."""
        self._loop.call_soon_threadsafe((self.hurry if self._stop.is_set() else self._stop).set)


@contextlib.asynccontextmanager
async def _announcing(
    backend: Serving, url: str, announce: Callable[[str], None]
) -> AsyncIterator[None]:
    async def once_ready() -> None:
        while not backend.ready():
            await asyncio.sleep(_POLL_S)
        announce(url)

    task = asyncio.ensure_future(once_ready())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _allow_many_connections() -> None:
    """As many open files as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
