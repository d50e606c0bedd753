"""What the commands on a running server share: a call of its API, and its peers as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

Url = Annotated[str, typer.Option(help="Where the server listens.")]
AdminKey = Annotated[str, typer.Option(help="Secret of an admin key, if the server has any.")]

HERE = "http://127.0.0.1:8000"
TIMEOUT_S = 10.0
VERSION = 1
"""Of the status that these commands can show."""


def call(url: str, key: str, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The status that the server answers with. Raises ServingError, in the server's words."""
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
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ServingError(
            f"the answer has status version {str(version)[:20]}, this command reads {VERSION}",
            where=url,
            remedy="name a silva server with --url, or use the same silva as it does",
        )
    return dict(content)


def show(status: dict[str, Any]) -> None:
    """Print the peers and the cache of a status."""
    from rich.console import Console

    Console().print(table_of(status))


def table_of(status: dict[str, Any]) -> Table:
    """The peers of a status, a row each; below them the cache and the counters."""
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
        + _roles(status["roles"])
    )
    return table


def _roles(roles: dict[str, Any]) -> str:
    """How busy the roles are, and the last move that the server made by itself."""
    line = ", ".join(f"{role} {100 * share:.0f} % busy" for role, share in roles["busy"].items())
    if roles["auto"]:
        line = f"{line}; " if line else ""
        line += f"roles move by themselves, {sum(roles['moves'].values())} moved"
    if roles["last"]:
        line += f", {roles['last']} {roles['last_age_s']:.0f} s ago"
    return f"\n{line}" if line else ""
