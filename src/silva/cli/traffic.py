"""What `silva plan` and `silva simulate` both ask: which requests come, on which system, with which
drafts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from silva.supernode.traces import Traffic

TrafficFile = Annotated[
    Path | None, typer.Option(help="A trace: Azure's .csv or Mooncake's .jsonl.")
]
Rate = Annotated[float, typer.Option(help="Without a trace: requests a second.")]
Prompt = Annotated[float, typer.Option(help="Without a trace: mean prompt tokens.")]
Output = Annotated[float, typer.Option(help="Without a trace: mean answer tokens.")]
Seed = Annotated[int, typer.Option(help="Seed of made-up traffic.", min=0)]
SystemName = Annotated[str, typer.Option(help="System: a name or a .toml file.")]
Hardware = Annotated[
    str | None, typer.Option(help="Another machine for it: a name or a .toml file.")
]
Model = Annotated[str | None, typer.Option(help="Another model for it: a name or a .toml file.")]
Mtp = Annotated[
    bool, typer.Option("--mtp/--no-mtp", help="Whether drafts are verified, where there are any.")
]
Acceptance = Annotated[float, typer.Option(help="Share of the drafts that hold.")]


def make_traffic(
    file: Path | None, made: Mapping[str, object], seed: int, count: int | None = None
) -> Traffic:
    """Those of a trace, or of the `Shape` that `made` has the settings of.

    count: only the first so many; made-up traffic then is about as long as they take to come.
    Raises ConfigError, and DataError for a trace that cannot be read.
    """
    from silva.config import build
    from silva.supernode.generate import Shape, generate
    from silva.supernode.traces import read_traffic

    if file is not None:
        found = read_traffic(file)
    else:
        shape = build(Shape, made, "traffic")
        if count is not None:
            shape = build(Shape, {**made, "seconds": count / shape.rate}, "traffic")
        found = generate(shape, seed)
    return found if count is None else found.first(count)
