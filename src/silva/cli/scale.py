"""`silva scale`: more or fewer peers of a running server."""

from __future__ import annotations

from typing import Annotated

import typer

from silva.cli.admin import HERE, AdminKey, Url, call, show

MOST_DIGITS = 9


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

    wanted: dict[str, int] = {}
    for text in roles:
        role, equals, count = text.partition("=")
        number = equals and count.isascii() and count.isdigit() and len(count) <= MOST_DIGITS
        if not number or role in wanted:
            what = "names a role again" if number else "is no role and number"
            raise ConfigError(f"{text[:40]!r} {what}", remedy="write decode=2, each role once")
        wanted[role] = int(count)
    show(call(url, admin_key, "scale", {"roles": wanted}))
