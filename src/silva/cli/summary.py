"""The table that ends a tuning run: the figure tier by tier, clusters, where the report lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silva.federation.figures import Figure


def print_summary(forest: Path) -> None:
    """Print `report/summary.json` of a forest as a table."""
    from rich.console import Console
    from rich.table import Table

    from silva.federation.figures import FIGURES
    from silva.federation.summary import unseen_names

    summary = json.loads((forest / "report" / "summary.json").read_text())
    figure = FIGURES[summary.get("figure", "accuracy")]
    table = Table(title=f"{figure.title} over clients", title_justify="left")
    for column in ("", "mean", f"worst tenth (p{figure.percentile})", "spread (std)"):
        table.add_column(column, justify="left" if not column else "right")
    one = summary["clusters"] == 1
    leaf = "root + leaf" if one else "root + cluster + leaf"
    names = {"root": "root", "cluster": "root + cluster", "leaf": leaf}
    for tier, name in names.items():
        _row(table, figure, name, summary["tiers"].get(tier))
    for control, values in summary.get("control", {}).items():
        _row(table, figure, f"control: {control.replace('_', ' ')}", values)
    console = Console()
    console.print(table)
    unseen = Table(title="Clients never seen in training", title_justify="left")
    unseen.add_column("")
    unseen.add_column("mean", justify="right")
    for key in unseen_names(summary["unseen"]):
        value = summary["unseen"][key]
        # With one cluster there is nothing to be routed to: a zero leaf is the root once more.
        if value is not None and not (one and key == "zero_leaf"):
            unseen.add_row(_title(key), figure.shown(value))
    if unseen.row_count:
        console.print(unseen)
    ari = summary.get("ari")
    found = "1 cluster, so no cluster tier" if one else f"{summary['clusters']} clusters"
    # A console would break the lines where the window ends, paths too.
    print(found if ari is None else f"{found}, adjusted Rand index {ari:.2f}")
    replies = summary.get("replies", {})
    if any(replies.values()):
        print(f"replies not used: {replies['rejected']} rejected, {replies['lost']} lost")
    print(f"forest {forest}, report {forest / 'report'}")


def _title(key: str) -> str:
    titles = {"root": "root", "zero_leaf": "root + routed cluster, no training"}
    epochs = key.removeprefix("after_")
    return titles.get(key) or f"+ leaf, {epochs} local epoch{'' if epochs == '1' else 's'}"


def _row(table: Any, figure: Figure, name: str, values: dict[str, float] | None) -> None:
    if values and values.get("mean") is not None:
        cells = [figure.shown(values[key]) for key in figure.spreads[:3]]
        table.add_row(name, *cells)
