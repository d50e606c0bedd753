"""`silva forest probe`, `join`: a client joins a forest, by its data or where these are not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from silva.cli.admin import AdminKey
from silva.cli.assignment import assignment
from silva.cli.forest_served import PATIENCE_S, Data, Labels, Split

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
    probe: Annotated[
        Path | None, typer.Option(help="The file that `silva forest probe` wrote.")
    ] = None,
    data: Data = "",
    split: Split = "",
    labels: Labels = "",
    tune: Annotated[
        bool, typer.Option(help="Let the server tune a leaf on the data, beside its answers.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOREST]", help="A forest on this machine.")
    ] = None,
    url: Annotated[str, typer.Option(help="Or a server that serves one.")] = "",
    admin_key: AdminKey = "",
) -> None:
    """Add a client to a forest, or to one that is served, which answers it at once.

    By its probe, or by its data, which a server is sent for that.
    """
    from silva.errors import ConfigError

    if (folder is None) == (not url):
        raise ConfigError("name a forest or a server", remedy="give one of FOREST and --url")
    if (probe is None) == (not data):
        raise ConfigError("say who joins", remedy="give one of --probe and --data")
    if tune and not (data and url):
        remedy = "give --data and --url, or use `silva forest add --leaf-epochs`"
        raise ConfigError("a server tunes a leaf on data that it is sent", remedy=remedy)
    if folder is not None:
        _tell(client, _joined_here(folder, client, probe, data, split, labels))
        return
    told = _joined_there(url, admin_key, client, probe, data, split, labels, tune)
    _tell(client, told)
    typer.echo(f"ask for {told['model']}")
    if tune:
        typer.echo(f"its leaf is tuned; see `silva forest served --url {url}`")


def _joined_here(
    folder: Path, client: str, probe: Path | None, data: str, split: str, labels: str
) -> dict[str, Any]:
    from silva.api import Forest
    from silva.cli.progress import stages

    forest = Forest.load(folder)
    if probe is not None:
        content = _read(probe)
    else:
        with stages("probing", keep=False):
            content = forest.make_probe(client, data, split=split, labels=labels)
    joined = forest.join(client, content)
    about = {"cluster": joined.cluster, "similarities": joined.similarities}
    return {**about, "version": joined.forest.version}


def _joined_there(
    url: str,
    admin_key: str,
    client: str,
    probe: Path | None,
    data: str,
    split: str,
    labels: str,
    tune: bool,
) -> dict[str, Any]:
    from silva.cli.admin import ask
    from silva.cli.forest_served import examples_for

    sent: dict[str, Any]
    if probe is not None:
        sent = {"content": _read(probe), "headers": {"content-type": "application/octet-stream"}}
    else:
        examples = examples_for(url, admin_key, data, split, labels)
        sent = {"json": {"examples": examples, "tune": tune}}
    return ask(
        url,
        admin_key,
        "forest/clients",
        timeout_s=PATIENCE_S,
        needs=("cluster", "similarities", "version", "model"),
        params={"client": client},
        **sent,
    )


def _read(probe: Path) -> bytes:
    from silva.adapters.files import read_limited
    from silva.adapters.objects import MAX_OBJECT_BYTES

    return read_limited(probe, MAX_OBJECT_BYTES, "give the file that `silva forest probe` wrote")


def _tell(client: str, told: dict[str, Any]) -> None:
    typer.echo(f"{client}: {told['cluster']}, version {told['version']}")
    for name, similarity in told["similarities"].items():
        mark = "  <- nearest" if name == told["cluster"] else ""
        typer.echo(f"  {name:<12} similarity {similarity:.3f}{mark}")
