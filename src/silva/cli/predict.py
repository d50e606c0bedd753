"""`silva predict`: the classes of images by the model of one client."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("predict", help=_predict.__doc__)(_predict)


def _predict(
    forest: Annotated[Path, typer.Argument(help="A forest.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    client: Annotated[str, typer.Option(help="A client, cluster-N or root.")],
    top: Annotated[int, typer.Option(min=1, max=1000, help="Classes an image.")] = 5,
    unknown_client: Annotated[
        str, typer.Option(help="Unknown names: error, or root to answer with the root.")
    ] = "error",
    backbone: Annotated[str, typer.Option(help="Where the base model lies, if moved.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """Classify images with one client's personal model."""
    from silva.api import Forest
    from silva.cli.progress import stages
    from silva.errors import ConfigError

    if unknown_client not in ("error", "root"):
        raise ConfigError(
            f"{unknown_client!r} is no choice", where="--unknown-client", remedy="error or root"
        )
    grown = Forest.load(forest)
    with stages(keep=False) as show:
        answers = grown.predict(
            client,
            images,
            top=top,
            unknown_client=unknown_client,
            backbone=backbone,
            on_progress=show,
        )
    if as_json:
        typer.echo(json.dumps([asdict(answer) for answer in answers], indent=2))
        return
    for answer in answers:
        typer.echo(answer.image)
        for name, chance in zip(answer.classes, answer.probabilities, strict=True):
            typer.echo(f"  {chance:6.1%}  {name}")
