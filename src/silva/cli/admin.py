"""What the commands on a running server share: a call of its API, and its peers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Url = Annotated[str, typer.Option(help="Where the server listens.")]
AdminKey = Annotated[str, typer.Option(help="Secret of an admin key, if the server has any.")]

HERE = "http://127.0.0.1:8000"
TIMEOUT_S = 10.0


def call(url: str, key: str, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The status that the server answers with. Raises ServingError, in the server's words."""
    from silva.errors import ServingError
    from silva.serving.backend import STATUS_VERSION

    content = ask(url, key, verb, **({"method": "GET"} if body is None else {"json": body}))
    version = content.get("version")
    if version != STATUS_VERSION:
        raise ServingError(
            f"the answer has status version {str(version)[:20]}, this command reads {STATUS_VERSION}",
            where=url,
            remedy="name a silva server with --url, or use the same silva as it does",
        )
    return content


def ask(
    url: str,
    key: str,
    verb: str,
    method: str = "POST",
    *,
    timeout_s: float = TIMEOUT_S,
    needs: Sequence[str] = (),
    **request: Any,
) -> dict[str, Any]:
    """The JSON object that the server answers with, which has `needs`; `request` as httpx takes it.

    Raises ServingError, in the server's words.
    """
    import httpx

    from silva.errors import ServingError

    headers = dict(request.pop("headers", {}))
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    where = f"{url.rstrip('/')}/admin/v1/{verb}"
    try:
        answer = httpx.request(method, where, headers=headers, timeout=timeout_s, **request)
        parsed = answer.json()
    except httpx.ReadTimeout:
        raise ServingError(
            f"no answer within {timeout_s:.0f} s; it may still do what it was asked",
            where=url,
            remedy="look at it before you ask again",
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ServingError(
            f"no answer of a silva server ({str(error)[:120] or type(error).__name__})",
            where=url,
            remedy="start one with `silva serve`, or name it with --url",
        ) from None
    content: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    if answer.is_error:
        refusal = content.get("error")
        message = str(refusal.get("message", "")) if isinstance(refusal, dict) else ""
        what = message or f"the server answered {answer.status_code}"
        raise ServingError(what, where=url, remedy="see `silva status`")
    missing = [name for name in needs if name not in content]
    if missing:
        raise ServingError(
            f"the answer has no {missing[0]!r}", where=url, remedy="name a silva server with --url"
        )
    return content


def show(status: dict[str, Any]) -> None:
    """Print the peers and the cache of a status."""
    from rich.console import Console

    Console().print(page_of(status))


def page_of(status: dict[str, Any]) -> Group:
    """A status: its peers, and below them what targets for time per token allow."""
    from rich.console import Group

    admissions = ((role, pool.get("admission")) for role, pool in status["pools"].items())
    trades = (_trade(role, told) for role, told in admissions if told and told["trades"])
    return Group(_table(status), *trades)


def _table(status: dict[str, Any]) -> Table:
    """The peers, a row each; below them the cache and the counters."""
    from rich.table import Table

    table = Table()
    table.add_column("peer", no_wrap=True)
    for name in ("role", "pid", "state", "queue", "running", "ms a token", "blocks free"):
        table.add_column(name)
    for peer in status["peers"]:
        blocks = f"{peer['blocks_free']} of {peer['blocks_total']}" if peer["blocks_total"] else ""
        table.add_row(
            *(peer[name] for name in ("name", "role")),
            str(peer["pid"]),
            peer["state"],
            str(peer["queue"]),
            *_batch(peer),
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


def _batch(peer: dict[str, Any]) -> tuple[str, str]:
    """What runs, of how many that are let in, and the measured time per token."""
    admission = peer.get("admission")
    if admission is None:
        return str(peer["running"]), ""
    tpot_s = admission["tpot_s"]
    return f"{peer['running']} of {admission['batch']}", f"{1e3 * tpot_s:.1f}" if tpot_s else ""


def _trade(role: str, admission: dict[str, Any]) -> Table:
    """For each target the batch that holds it, and what that gives."""
    from rich.table import Table

    own = admission["target_s"]
    table = Table("target, ms", "batch", "ms a token", "tokens/s")
    for row in admission["trades"]:
        target = f"{1e3 * row['target_s']:g}" if row["target_s"] else "none"
        held = row["batch"] > 0
        table.add_row(
            f"{target} (set)" if row["target_s"] == own else target,
            str(row["batch"]) if held else "cannot be held",
            f"{1e3 * row['tpot_s']:.1f}",
            f"{row['tokens_per_s']:,.0f}" if held else "",
        )
    table.title = f"{role}: what a target for time per token allows"
    context = f"{admission['context_tokens']:,.0f} tokens of context"
    table.caption = f"at {context}, by the step times measured so far"
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
