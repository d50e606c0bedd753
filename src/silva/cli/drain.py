"""`silva drain`: one peer of a running server ends when its work is done."""

from __future__ import annotations

from typing import Annotated

import typer

from silva.cli.admin import HERE, AdminKey, Url, call, show


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("drain", help=_drain.__doc__)(_drain)


def _drain(
    peer: Annotated[str, typer.Argument(help="As decode-1.")],
    url: Url = HERE,
    admin_key: AdminKey = "",
) -> None:
    """Let one peer finish what it runs, then stop it."""
    show(call(url, admin_key, "drain", {"peer": peer}))
