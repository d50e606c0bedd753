"""`silva forest`: look at an adapter forest, check it, take clients out, exchange with PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from silva.cli.forest_add import add
from silva.cli.forest_join import join, probe
from silva.cli.forest_served import leaf, reload, served
from silva.errors import ConfigError

if TYPE_CHECKING:
    from silva.adapters.maintenance import VerifyReport

ForestFolder = Annotated[Path, typer.Argument(metavar="FOREST", help="The forest's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


def register(app: typer.Typer) -> None:
    """Adds `silva forest` and its commands."""
    group = typer.Typer(help="Look at, check, change and export adapter forests.")
    group.command("show")(show)
    group.command("add")(add)
    group.command("probe")(probe)
    group.command("join")(join)
    group.command("leaf")(leaf)
    group.command("served")(served)
    group.command("reload")(reload)
    group.command("verify")(verify)
    group.command("remove")(remove)
    group.command("rollback")(rollback)
    group.command("export")(export)
    group.command("import")(import_)
    app.add_typer(group, name="forest", no_args_is_help=True)


def show(
    folder: ForestFolder,
    as_json: AsJson = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the tree to this PNG.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Clients to print in each cluster.")] = 20,
) -> None:
    """Print the tree with sizes and accuracies."""
    import json

    from silva.adapters.forest import Forest

    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot draws a PNG, not {plot.name[-40:]!r}", remedy="name it *.png")
    forest = Forest.load(folder)
    if plot is not None:
        from silva.cli.forest_plot import draw_forest

        draw_forest(forest.manifest, plot)
    if as_json:
        plain = forest.manifest.as_plain()
        print(json.dumps({**plain, "bytes": sum(forest.manifest.objects.values())}, indent=2))
        return
    from rich.console import Console

    from silva.cli.forest_tree import tree_of

    Console(highlight=False).print(tree_of(forest, limit))
    if plot is not None:
        print(f"drawn to {plot}")


def verify(
    folder: ForestFolder,
    sweep: Annotated[
        bool, typer.Option(help="Erase what no version names: remains of interrupted writes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every object of every version and compare it with its digest; exit code 2 on damage."""
    import json
    from dataclasses import asdict

    from silva.adapters import maintenance
    from silva.cli.progress import stages
    from silva.federation.run import Progress

    with stages("reading the forest", keep=False) as show:
        report = maintenance.verify(
            folder,
            sweep=sweep,
            after=lambda read, total: show(Progress("verify", read, total)),
        )
    if as_json:
        print(json.dumps({**asdict(report), "sound": report.sound}, indent=2))
    else:
        if report.completed:
            print(f"completed the interrupted removal of {report.completed}")
        remains = len(report.orphaned) + len(report.unfinished)
        if remains:
            print(f"{'erased' if sweep and report.sound else 'unused'}    {remains} files")
        if report.sound:
            size = _megabytes(report.bytes)
            print(f"sound: {len(report.versions)} versions, {report.objects} objects, {size}")
    _refuse_damage(report, folder, listed=not as_json)


def _refuse_damage(report: VerifyReport, folder: Path, *, listed: bool) -> None:
    """ForestError in one line where there is damage; several findings are `listed` before it."""
    from silva.errors import ForestError

    missing = [f"{folder / 'objects' / digest}: is missing" for digest in report.missing]
    found = [*report.damaged, *missing]
    if listed and len(found) > 1:
        print("\n".join(found))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        remedy = "restore it from a copy of the forest, or grow the forest again"
        raise ForestError(f"{found[0]}{more}", remedy=remedy)


def remove(
    folder: ForestFolder,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Whom to erase.")],
) -> None:
    """Erase a client's objects and every version that names it. There is no way back."""
    from silva.adapters import maintenance

    manifest = maintenance.remove(folder, client)
    print(f"removed {client}; version {manifest.version} is live, {len(manifest.clients)} clients")
    if (folder / "report").exists():
        print(f"note: {folder / 'report'} may still hold the client's name and accuracies")


def rollback(
    folder: ForestFolder,
    to: Annotated[int, typer.Option(help="Number of the version to make live.")],
) -> None:
    """Make an older version live again; nothing is erased."""
    from silva.adapters import maintenance

    manifest = maintenance.rollback(folder, to)
    print(f"version {manifest.version} is live, {len(manifest.clients)} clients")


def export(
    folder: ForestFolder,
    peft: Annotated[Path, typer.Option(help="The PEFT directory to write.")],
    client: Annotated[str, typer.Option(help="Export this client's whole path.")] = "",
    tier: Annotated[str, typer.Option(help="Export one tier: root or cluster-2.")] = "",
    stack: Annotated[
        bool, typer.Option(help="One directory a tier of the client's path, to be stacked.")
    ] = False,
    transformers: Annotated[
        int, typer.Option(min=4, max=5, help="Whose module names: transformers 4 or 5.")
    ] = 5,
) -> None:
    """Write a client's path as one PEFT adapter (or a stack of them), or one tier alone."""
    from silva.api import Forest
    from silva.cli.progress import stages

    _exactly_one(client, tier)
    with stages("reading and writing adapters"):
        wrote = Forest.load(folder).export_peft(
            peft, client=client, tier=tier, stack=stack, transformers=transformers
        )
    print(f"wrote {', '.join(wrote)} to {peft}")


def import_(
    folder: ForestFolder,
    peft: Annotated[Path, typer.Option(help="The PEFT directory to read.")],
    client: Annotated[str, typer.Option(help="Make it this client's leaf.")] = "",
    tier: Annotated[str, typer.Option(help="Make it this tier: root or cluster-2.")] = "",
    cluster: Annotated[str, typer.Option(help="The cluster of a new client.")] = "",
) -> None:
    """Read a PEFT adapter as a client's leaf or as a shared tier; a smaller rank is padded.

    A client's whole path is read too, where it begins with this forest's root and cluster.
    """
    from silva.api import Forest
    from silva.cli.progress import stages

    _exactly_one(client, tier)
    with stages("reading and writing adapters"):
        grown = Forest.load(folder).import_peft(peft, client=client, tier=tier, cluster=cluster)
    print(f"imported {peft} as {client or tier}; version {grown.version} is live")


def _exactly_one(client: str, tier: str) -> None:
    if bool(client) == bool(tier):
        raise ConfigError("name a client or a tier", remedy="give one of --client and --tier")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
