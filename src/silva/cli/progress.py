"""One progress bar for every command that takes longer than two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

    from silva.federation.run import Progress as Step

TITLES = {
    "root": "root     every client",
    "clustering": "clusters from subspaces",
    "cluster": "cluster  alike clients",
    "leaf": "leaf     each client alone",
    "unseen": "unseen clients, controls",
}


@contextmanager
def stages() -> Iterator[Callable[[Step], None]]:
    """A bar a stage of a tuning run; yields what the run calls with its progress.

    Until the first step a spinner stands for reading model and data. Nothing of it stays, so that
    what goes wrong there is one line.
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
    reading = console.status("reading model and images")
    bars = Progress(*columns, console=console)
    tasks: dict[str, TaskID] = {}

    def show(step: Step) -> None:
        if step.stage not in tasks:
            reading.stop()
            bars.start()
            title = TITLES.get(step.stage, step.stage)
            tasks[step.stage] = bars.add_task(title, total=step.total, note="")
        bars.update(tasks[step.stage], completed=step.done, total=step.total, note=step.note)

    if console.is_terminal:
        reading.start()
    try:
        yield show
    finally:
        reading.stop()
        if tasks:
            bars.stop()
