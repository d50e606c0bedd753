"""`silva status`: what the peers of a running server do."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from silva.cli.admin import HERE, AdminKey, Url, call, page_of

WATCH_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("status", help=_status.__doc__)(_status)


def _status(
    url: Url = HERE,
    admin_key: AdminKey = "",
    watch: Annotated[bool, typer.Option("--watch", help="Again every second.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The status as JSON.")] = False,
) -> None:
    """Peers, batches and cache of a running server."""
    import time

    from rich.console import Console
    from rich.live import Live

    if as_json:
        typer.echo(json.dumps(call(url, admin_key, "status"), indent=2))
        return
    if not watch:
        Console().print(page_of(call(url, admin_key, "status")))
        return
    with Live(page_of(call(url, admin_key, "status")), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(page_of(call(url, admin_key, "status")), refresh=True)
