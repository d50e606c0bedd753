"""`silva tune`: from clients' data to an adapter forest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("tune", help=_tune.__doc__)(_tune)


def _tune(
    data: Annotated[str, typer.Option(help="File, folder or known name; formats detected.")] = "",
    partition: Annotated[
        str, typer.Option(help="Who owns what: by_folder, by_column(c), sc_dir(2,3.0), ...")
    ] = "",
    clients: Annotated[int | None, typer.Option(help="Number of clients, unseen too.")] = None,
    unseen: Annotated[float | None, typer.Option(help="Share held out of training.")] = None,
    samples_per_client: Annotated[int | None, typer.Option(help="Train images; 0: all.")] = None,
    test_per_client: Annotated[int | None, typer.Option(help="Test images at most.")] = None,
    split: Annotated[str | None, typer.Option(help="Train/test column or share.")] = None,
    labels: Annotated[str | None, typer.Option(help="Label column or folder levels.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of all tiers together.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random draw.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Shipped name or ViT directory.")] = None,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
    device: Annotated[str | None, typer.Option(help="Torch device, e.g. cuda:0.")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe; flags override it.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, e.g. --set federation.local.lr=1e-3."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the forest will stand.")] = Path("forest"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the unfinished run of this forest.")
    ] = None,
) -> None:
    """Grow an adapter forest: root, clusters, leaves.

    An interrupted run goes on with --resume FOREST and ends with the same forest.
    """
    from silva import api
    from silva.cli.progress import stages
    from silva.cli.summary import print_summary
    from silva.config import build, overlay, read_toml

    if resume is not None:
        with stages() as show:
            api.resume(resume, show)
        print_summary(resume)
        return
    flags = {
        "backbone": backbone,
        "seed": seed,
        "threads": threads,
        "device": device,
        "data.path": data or None,
        "data.split": split,
        "data.labels": labels,
        "data.partition": partition or None,
        "data.clients": clients,
        "data.unseen": unseen,
        "data.samples_per_client": samples_per_client,
        "data.test_per_client": test_per_client,
        "federation.rounds": rounds,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    given |= dict(_assignment(text) for text in setting or [])
    values = overlay(read_toml(config) if config else {}, given)
    tree = build(api.TuneConfig, values, str(config or "flags"))
    with stages() as show:
        api.tune(tree, out, show)
    print_summary(out)


def _assignment(text: str) -> tuple[str, Any]:
    """ "federation.local.lr=1e-3" as a name and a TOML value; bare words are strings."""
    import tomllib

    from silva.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{text!r} is no setting", remedy="write --set name.of.field=value")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
