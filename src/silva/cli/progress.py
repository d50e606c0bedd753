"""Progress bars of everything that takes longer than two seconds on forests and their clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from silva.cli.interrupts import heeded

if TYPE_CHECKING:
    from rich.progress import TaskID

    from silva.federation.run import Progress as Step

TITLES = {
    "images": "images   all read once",
    "head": "head     class statistics",
    "calibration": "head     calibrated by others",
    "root": "root     every client",
    "clustering": "clusters from subspaces",
    "labels": "labels   of clusters",
    "cluster": "cluster  alike clients",
    "leaf": "leaf     each client alone",
    "unseen": "unseen clients, controls",
    "forest": "leaves to disk",
    "report": "plots of the report",
    "probe": "probe and routing",
    "leaf epochs": "leaf, epochs",
    "measure": "figure by tier",
    "predict": "images",
    "verify": "objects read",
}


BEFORE = {"images"}
"""What is looked at before a run begins. Where nothing follows it has gone wrong: no bar stays then,
only the line that says why."""


@contextmanager
def stages(
    first: str = "reading model and data", *, keep: bool = True
) -> Iterator[Callable[[Step], None]]:
    """A bar a stage; yields what a run, or whatever else works in steps, calls with its progress.

    With `keep` the bars stay when all is done, without a terminal too. Until the first step a spinner
    says what is being done: `first`. Nothing of it stays, so that what goes wrong there is one line.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    reading = console.status(first)
    bars = Progress(*columns, console=console, transient=not keep)
    tasks: dict[str, TaskID] = {}

    def show(step: Step) -> None:
        check()
        if not keep and not console.is_terminal:
            return  # nothing would be left of it
        if step.stage not in tasks:
            reading.stop()
            bars.start()
            title = TITLES.get(step.stage, step.stage)
            tasks[step.stage] = bars.add_task(title, total=step.total, note="")
        bars.update(tasks[step.stage], completed=step.done, total=step.total, note=step.note)

    if console.is_terminal:
        reading.start()
    try:
        with heeded() as check:
            yield show
    finally:
        reading.stop()
        if set(tasks) <= BEFORE:
            bars.live.transient = True
            bars.live.stop()  # `bars.stop` would leave an empty line where there is no terminal
        else:
            bars.stop()
