"""`silva status`, `scale`, `drain`, `switch` and `stop`: a running server, through its API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

Url = Annotated[str, typer.Option(help="Where the server listens.")]
AdminKey = Annotated[str, typer.Option(help="Secret of an admin key, if the server has any.")]

HERE = "http://127.0.0.1:8000"
TIMEOUT_S = 10.0
WATCH_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("status", help=_status.__doc__)(_status)
    app.command("scale", help=_scale.__doc__)(_scale)
    app.command("drain", help=_drain.__doc__)(_drain)
    app.command("switch", help=_switch.__doc__)(_switch)
    app.command("stop", help=_stop.__doc__)(_stop)


def _status(
    url: Url = HERE,
    admin_key: AdminKey = "",
    watch: Annotated[bool, typer.Option("--watch", help="Again every second.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The status as JSON.")] = False,
) -> None:
    """Peers, pools and cache of a running server."""
    import time

    from rich.console import Console
    from rich.live import Live

    if as_json:
        typer.echo(json.dumps(_call(url, admin_key, "status"), indent=2))
        return
    if not watch:
        Console().print(_table(_call(url, admin_key, "status")))
        return
    with Live(_table(_call(url, admin_key, "status")), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(_table(_call(url, admin_key, "status")), refresh=True)


def _scale(
    roles: Annotated[list[str], typer.Argument(help="As prefill=2 decode=1 cache=2.")],
    url: Url = HERE,
    admin_key: AdminKey = "",
) -> None:
    """Set how many peers each role has, while the server runs."""
    from silva.errors import ConfigError

    wanted = {}
    for text in roles:
        role, equals, count = text.partition("=")
        if not equals or not count.isascii() or not count.isdigit():
            raise ConfigError(f"{text[:40]!r} is no role and number", remedy="write decode=2")
        wanted[role] = int(count)
    _show(_call(url, admin_key, "scale", {"roles": wanted}))


def _drain(
    peer: Annotated[str, typer.Argument(help="As decode-1.")],
    url: Url = HERE,
    admin_key: AdminKey = "",
) -> None:
    """Let one peer finish what it runs, then stop it."""
    _show(_call(url, admin_key, "drain", {"peer": peer}))


def _switch(
    peer: Annotated[str, typer.Argument(help="As prefill-2.")],
    role: Annotated[str, typer.Argument(help="prefill, decode or cache.")],
    url: Url = HERE,
    admin_key: AdminKey = "",
) -> None:
    """Move one peer to another role."""
    _show(_call(url, admin_key, "switch", {"peer": peer, "role": role}))


def _stop(url: Url = HERE, admin_key: AdminKey = "") -> None:
    """Let a server finish what it runs, then end it."""
    _call(url, admin_key, "stop", {})
    typer.echo("silva: the server finishes what it runs and stops")


def _call(url: str, key: str, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The status that the server answers with. Raises ServingError with its own words."""
    import httpx

    from silva.errors import ServingError

    headers = {"authorization": f"Bearer {key}"} if key else {}
    where = f"{url.rstrip('/')}/admin/v1/{verb}"
    try:
        answer = httpx.request(
            "GET" if body is None else "POST",
            where,
            json=body,
            headers=headers,
            timeout=TIMEOUT_S,
        )
        content = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ServingError(
            f"no answer of a silva server ({str(error)[:120] or type(error).__name__})",
            where=url,
            remedy="start one with `silva serve`, or name it with --url",
        ) from None
    if answer.is_error:
        message = content.get("error", {}).get("message", "") if isinstance(content, dict) else ""
        what = message or f"the server answered {answer.status_code}"
        raise ServingError(what, where=url, remedy="see `silva status`")
    return dict(content)


def _show(status: dict[str, Any]) -> None:
    from rich.console import Console

    Console().print(_table(status))


def _table(status: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("peer", "role", "pid", "state", "queue", "running", "blocks free")
    for peer in status["peers"]:
        blocks = f"{peer['blocks_free']} of {peer['blocks_total']}" if peer["blocks_total"] else ""
        table.add_row(
            *(peer[name] for name in ("name", "role")),
            str(peer["pid"]),
            peer["state"],
            str(peer["queue"]),
            str(peer["running"]),
            blocks,
        )
    cache = status["cache"]
    asked = cache["hits"] + cache["misses"]
    table.caption = (
        f"cache: {cache['objects']} blocks, {cache['ram_bytes'] >> 20} MiB in RAM, "
        f"{cache['disk_bytes'] >> 20} MiB on disk, {cache['hits']} of {asked} lookups hit\n"
        + ", ".join(f"{name} {value}" for name, value in status["counters"].items())
    )
    return table
