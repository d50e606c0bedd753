"""`silva tune`: from clients' data to an adapter forest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from silva.cli.assignment import assignment


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("tune", help=_tune.__doc__)(_tune)


def _tune(
    data: Annotated[
        str | None, typer.Option(help="File, folder or known name; formats detected.")
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="Who owns what: by_folder, by_column(c), sc_dir(2,3.0), ...")
    ] = None,
    clients: Annotated[int | None, typer.Option(help="Number of clients, unseen too.")] = None,
    unseen: Annotated[float | None, typer.Option(help="Share held out of training.")] = None,
    samples_per_client: Annotated[int | None, typer.Option(help="To train on; 0: all.")] = None,
    test_per_client: Annotated[int | None, typer.Option(help="To test on, at most.")] = None,
    split: Annotated[str | None, typer.Option(help="Train/test column or share.")] = None,
    labels: Annotated[str | None, typer.Option(help="Label column or folder levels.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of all tiers together.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random draw.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Name or directory; smollm2: texts.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Clients side by side; 0: one a core.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Torch device, e.g. cuda:0.")] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe; flags override it.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting, e.g. --set federation.local.lr=1e-3."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the forest will stand.", show_default="forest")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the unfinished run of this forest.")
    ] = None,
) -> None:
    """Grow an adapter forest: root, clusters, leaves.

    An interrupted run goes on with --resume FOREST and ends with the same forest.
    """
    flags = {
        "backbone": backbone,
        "seed": seed,
        "threads": threads,
        "device": device,
        "data.path": data,
        "data.split": split,
        "data.labels": labels,
        "data.partition": partition,
        "data.clients": clients,
        "data.unseen": unseen,
        "data.samples_per_client": samples_per_client,
        "data.test_per_client": test_per_client,
        "federation.rounds": rounds,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    given |= dict(assignment(text) for text in setting or [])
    if resume is not None:
        _resume(resume, config, given | ({"out": str(out)} if out is not None else {}))
    else:
        _start(config, given, out or Path("forest"))


def _start(config: Path | None, given: dict[str, Any], out: Path) -> None:
    """Grow a new forest by a recipe, where there is one, and what was given beside it."""
    from silva import api
    from silva.cli.progress import stages
    from silva.cli.slow_types import warn_of_bfloat16
    from silva.cli.summary import print_summary
    from silva.config import build, overlay, read_toml

    values = overlay(read_toml(config) if config else {}, given)
    tree = build(api.TuneConfig, values, str(config or "flags"))
    if tree.federation.local.matmul == "bfloat16":
        warn_of_bfloat16("federation.local.matmul", tree.device)
    with stages() as show:
        api.tune(tree, out, show)
    print_summary(out)


def _resume(forest: Path, config: Path | None, given: dict[str, Any]) -> None:
    """Go on with the unfinished run of `forest`, by the settings that lie in it."""
    from silva import api
    from silva.cli.progress import stages
    from silva.cli.summary import print_summary
    from silva.errors import ConfigError

    if config or given:
        raise ConfigError(
            f"a resumed run keeps its settings ({', '.join(given) or config} was given)",
            where="--resume",
            remedy="leave the other flags out, or start a new run without --resume",
        )
    with stages() as show:
        api.resume(forest, show)
    print_summary(forest)
