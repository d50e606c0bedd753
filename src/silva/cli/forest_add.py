"""`silva forest add`: a client that took no part in training joins a forest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from silva.cli.assignment import assignment


def add(
    folder: Annotated[Path, typer.Argument(metavar="FOREST", help="A forest.")],
    client: Annotated[str, typer.Option(help="The new client's name.")],
    data: Annotated[str, typer.Option(help="Its images (classes as the forest's) or texts.")],
    split: Annotated[str, typer.Option(help="Train/test column or share.")] = "",
    labels: Annotated[str, typer.Option(help="Label column or folder levels.")] = "",
    leaf_epochs: Annotated[
        int, typer.Option(min=0, max=1000, help="Local epochs of a leaf; 0: root + cluster only.")
    ] = 0,
    backbone: Annotated[str, typer.Option(help="Where the base model lies, if moved.")] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override the run's, e.g. --set federation.local.lr=1e-3."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Probe a new client's data, route it to the nearest cluster and say why.

    Probe and leaf are trained with the settings of the run that grew the forest.
    """
    from silva.api import Forest
    from silva.cli.progress import stages

    forest, flags = Forest.load(folder), dict(assignment(text) for text in setting or [])
    with stages(keep=False) as show:
        added = forest.add(
            client,
            data,
            split=split,
            labels=labels,
            leaf_epochs=leaf_epochs,
            backbone=backbone,
            settings=flags,
            on_progress=show,
        )
    if forest.manifest.settings is None:
        note = "the forest does not say how it was tuned; default settings, and --set, were used"
        typer.echo(f"silva: note: {note}", err=True)
    if as_json:
        typer.echo(json.dumps(_plain(added), indent=2))
        return
    typer.echo(f"{client}: {added.cluster or 'root only (the forest has no clusters)'}")
    for name, similarity in added.similarities.items():
        mark = "  <- nearest" if name == added.cluster else ""
        loss = added.losses[name]
        typer.echo(f"  {name:<12} similarity {similarity:.3f}   loss {loss:.3f}{mark}")
    if added.by_loss is not None:
        verdict = "agrees" if added.by_loss == added.cluster else f"would choose {added.by_loss}"
        typer.echo(f"  routing by loss {verdict}")
    if added.rejected:
        note = "passes of probe and leaf ended in numbers that are not finite and were undone"
        typer.echo(f"silva: warning: {added.rejected} {note}", err=True)
    from silva.federation.figures import FIGURES

    figure = FIGURES[added.figure]
    for tier, value in added.figures.items():
        typer.echo(f"  {figure.name} with {tier:<8} {figure.shown(value)}")
    typer.echo(f"version {added.forest.version} of {folder}, from {added.images} {figure.examples}")


def _plain(added: Any) -> dict[str, Any]:
    return {
        "client": added.client,
        "cluster": added.cluster,
        "by_loss": added.by_loss,
        "similarities": added.similarities,
        "losses": added.losses,
        "leaf": added.leaf,
        "images": added.images,
        added.figure: added.figures,
        "rejected": added.rejected,
        "version": added.forest.version,
    }
