"""`silva switch`: one peer of a running server takes another role."""

from __future__ import annotations

from typing import Annotated

import typer

from silva.cli.admin import HERE, AdminKey, Url, call, show


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("switch", help=_switch.__doc__)(_switch)


def _switch(
    peer: Annotated[str, typer.Argument(help="As prefill-2.")],
    role: Annotated[str, typer.Argument(help="prefill, decode or cache.")],
    url: Url = HERE,
    admin_key: AdminKey = "",
) -> None:
    """Move one peer to another role."""
    show(call(url, admin_key, "switch", {"peer": peer, "role": role}))
