"""`silva demo`: a forest on embedded pictures, tuned and served, with nothing to download."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

SETTINGS: dict[str, Any] = {
    "backbone": "silva-vit-tiny",
    "data": {
        "path": "embedded",
        "partition": "planted(4)",
        "clients": 20,
        "unseen": 0.2,
        "samples_per_client": 100,
        "test_per_client": 80,
    },
    "federation": {
        "measure_every": 2,
        "root": {"rounds": 6},
        "cluster": {"rounds": 4},
        "leaf": {"rounds": 2},
    },
}
"""Twenty clients with 100 pictures each; their camera styles are the groups to be found."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("demo", help=_demo.__doc__)(_demo)


def _demo(
    out: Annotated[
        Path | None, typer.Option(help="Where the forest will stand; default: a free name.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every random draw.")] = 0,
    texts: Annotated[
        bool, typer.Option("--texts/--no-texts", help="Texts too, where SmolLM2 is in the cache.")
    ] = True,
    keep: Annotated[
        bool, typer.Option("--keep", help="Serve on at the end, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the server; 0 for any.")] = 0,
) -> None:
    """Tune a forest on embedded pictures, serve it, and let a new client join (minutes)."""
    from silva import api
    from silva.cli.demo_meeting import meet
    from silva.cli.demo_server import served
    from silva.cli.demo_texts import BACKBONE, present, show_texts
    from silva.cli.progress import stages
    from silva.cli.summary import print_summary
    from silva.config import build

    where = out or _free(Path("demo-forest"))
    print(
        "20 clients photograph clothes, 100 pictures each. Their cameras differ: plain, inverted,\n"
        "rotated, edges only. silva is not told which client has which. 4 clients stay out of\n"
        "training and are met at the end.\n"
    )
    config = build(api.TuneConfig, {**SETTINGS, "seed": seed}, "demo")
    with stages() as show:
        forest = api.tune(config, where, show)
    print_summary(where)
    print(f"picture {where / 'report' / 'overview.png'}\n")
    with served(config.backbone, where, port) as server:
        meet(forest, config, server)
        if texts and present(BACKBONE):
            show_texts(_free(where.with_name(f"{where.name}-texts")), seed)
        client = next(name for name in forest.clients if forest.client(name).seen)
        print(f"next    silva forest show {where}")
        print(f"        silva predict {where} --client {client} PICTURE.png")
        print(f"        silva serve {config.backbone} --forest {where}")
        if keep:
            print(f"serving {server.url}/ until Ctrl-C")
            server.process.wait()


def _free(place: Path) -> Path:
    """`place`, or with -2, -3, ... after it: the first that neither a forest nor a run occupies."""
    for number in itertools.count(1):
        path = place if number == 1 else place.with_name(f"{place.name}-{number}")
        if not path.exists() and not path.with_name(path.name + ".run").exists():
            return path
    raise AssertionError("unreachable")
