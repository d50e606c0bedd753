"""`silva forest probe`, `join`, `reload`: a client joins where its data are not; servers follow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from silva.cli.admin import HERE, AdminKey, Url
from silva.cli.assignment import assignment

PATIENCE_S = 300.0
"""A server reads every object of a version before it makes it live."""
Client = Annotated[str, typer.Option(help="The new client's name.")]


def probe(
    folder: Annotated[Path, typer.Argument(metavar="FOREST", help="A forest.")],
    client: Client,
    data: Annotated[str, typer.Option(help="Its images (classes as the forest's) or texts.")],
    out: Annotated[Path, typer.Option(help="The probe's file, to be written.")],
    split: Annotated[str, typer.Option(help="Train/test column or share.")] = "",
    labels: Annotated[str, typer.Option(help="Label column or folder levels.")] = "",
    backbone: Annotated[str, typer.Option(help="Where the base model lies, if moved.")] = "",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting of the run.")
    ] = None,
) -> None:
    """Write what a client tells of itself to join the forest elsewhere; its data stay here."""
    from silva.adapters.files import write_atomic
    from silva.api import Forest
    from silva.cli.progress import stages
    from silva.cli.writable import check_writable
    from silva.errors import ConfigError

    if out.exists():
        raise ConfigError("already exists", where=out, remedy="choose another --out")
    check_writable(out)
    forest, flags = Forest.load(folder), dict(assignment(text) for text in setting or [])
    with stages("probing", keep=False):
        content = forest.make_probe(
            client, data, split=split, labels=labels, backbone=backbone, settings=flags
        )
    write_atomic(out, content)
    typer.echo(f"wrote {len(content) / 1e6:.2f} MB to {out}")


def join(
    client: Client,
    probe: Annotated[Path, typer.Option(help="The file that `silva forest probe` wrote.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOREST]", help="A forest on this machine.")
    ] = None,
    url: Annotated[str, typer.Option(help="Or a server that serves one.")] = "",
    admin_key: AdminKey = "",
) -> None:
    """Add a client by its probe: to a forest, or to one that is served, which answers it at once."""
    from silva.adapters.files import read_limited
    from silva.adapters.objects import MAX_OBJECT_BYTES
    from silva.errors import ConfigError

    if (folder is None) == (not url):
        raise ConfigError("name a forest or a server", remedy="give one of FOREST and --url")
    content = read_limited(probe, MAX_OBJECT_BYTES, "give the file that `silva forest probe` wrote")
    if folder is None:
        from silva.cli.admin import ask

        headers = {"content-type": "application/octet-stream"}
        params = {"client": client}
        needs = ("cluster", "similarities", "version", "model")
        told = ask(
            url,
            admin_key,
            "forest/clients",
            timeout_s=PATIENCE_S,
            needs=needs,
            content=content,
            headers=headers,
            params=params,
        )
        _tell(client, told)
        typer.echo(f"ask for {told['model']}")
        return
    from silva.api import Forest

    joined = Forest.load(folder).join(client, content)
    about = {"cluster": joined.cluster, "similarities": joined.similarities}
    _tell(client, {**about, "version": joined.forest.version})


def reload(
    to: Annotated[int | None, typer.Option(help="Make this version live first.")] = None,
    url: Url = HERE,
    admin_key: AdminKey = "",
) -> None:
    """Let a server answer for the version of its forest that is live on disk."""
    from silva.cli.admin import ask

    needs, body = ("version", "clusters", "clients"), {} if to is None else {"version": to}
    told = ask(url, admin_key, "forest", timeout_s=PATIENCE_S, needs=needs, json=body)
    typer.echo(
        f"version {told['version']} is answered for: {told['clusters']} clusters, "
        f"{told['clients']} clients"
    )


def _tell(client: str, told: dict[str, Any]) -> None:
    typer.echo(f"{client}: {told['cluster']}, version {told['version']}")
    for name, similarity in told["similarities"].items():
        mark = "  <- nearest" if name == told["cluster"] else ""
        typer.echo(f"  {name:<12} similarity {similarity:.3f}{mark}")
