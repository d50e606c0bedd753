"""`silva stop`: a running server ends when its work is done."""

from __future__ import annotations

import typer

from silva.cli.admin import HERE, AdminKey, Url, call


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("stop", help=_stop.__doc__)(_stop)


def _stop(url: Url = HERE, admin_key: AdminKey = "") -> None:
    """Let a server finish what it runs, then end it."""
    call(url, admin_key, "stop", {})
    typer.echo("silva: the server finishes what it runs and stops")
