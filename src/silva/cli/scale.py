"""`silva scale`: more or fewer peers of a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from silva.cli.admin import HERE, AdminKey, Url, call, show


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("scale", help=_scale.__doc__)(_scale)


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
    show(call(url, admin_key, "scale", {"roles": wanted}))
